"""Django settings of the web process (admin, REST API) and of ``manage.py``."""

from django.templatetags.static import static
from django.urls import reverse_lazy

from nopenai_site.environment import LOOPBACK_HOSTS
from nopenai_site.settings_core import *  # noqa: F403
from nopenai_site.settings_core import BASE_DIR, NOPENAI
from nopenai_site.version import VERSION

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",  # the API page's own scripts: the page works without a network
    "nopenai_site",
    "registry",
    "quotas",
    "routing",
]

ROOT_URLCONF = "nopenai_site.urls"
WSGI_APPLICATION = "nopenai_site.wsgi.application"

# Where no key is asked for, the Host header is what keeps a web page that an operator visits from driving the server
# through a name of its own that it points at 127.0.0.1 (DNS rebinding): only loopback names are served. Where keys are
# required, such a page has neither a key nor, under another name, the session's cookie; and a server that listens on
# an address, behind names and proxies that it can't know, would only refuse its own users.
_loopback_names = ["[::1]" if host == "::1" else host for host in (*LOOPBACK_HOSTS, NOPENAI.host)]
ALLOWED_HOSTS = ["*"] if NOPENAI.require_api_key else _loopback_names

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "nopenai_site.revision.RevisionMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

FORMAT_MODULE_PATH = "nopenai_site.formats"

# --- Static files ----------------------------------------------------------------------------------------------------
# Served from the packages that carry them, by whitenoise, which lists them once at the start (milliseconds): there is
# no collectstatic step to forget and nothing to go stale.
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False
WHITENOISE_MAX_AGE = 3600

# --- Sessions and passwords ------------------------------------------------------------------------------------------
# Cookies know no ports: names of our own keep another Django on the same host from signing its users out of ours.
SESSION_COOKIE_NAME = "nopenai_session"
CSRF_COOKIE_NAME = "nopenai_csrf"
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Lax"
# A new key's secret is shown as a message: it travels in a cookie, and never lies in the session's table.
MESSAGE_STORAGE = "django.contrib.messages.storage.cookie.CookieStorage"
CSRF_FAILURE_VIEW = "nopenai_site.errors.csrf_failure"

LOGIN_URL = reverse_lazy("admin:login")
LOGIN_REDIRECT_URL = reverse_lazy("admin:index")
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

# --- Headers ---------------------------------------------------------------------------------------------------------
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# The gateway is the only peer of the web process and passes on what a TLS proxy in front of it says.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

DATA_UPLOAD_MAX_MEMORY_SIZE = 2 * 1024 * 1024
"""Bytes of a request body. The control plane's largest is a few KB."""

# --- REST ------------------------------------------------------------------------------------------------------------
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "nopenai_site.authentication.KeyAuthentication",
        "nopenai_site.authentication.AdminSessionAuthentication",
        "nopenai_site.authentication.LoopbackAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["nopenai_site.authentication.RolePermission"],
    "DEFAULT_PARSER_CLASSES": ["nopenai_site.parsers.StrictJSONParser"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "nopenai_site.errors.exception_handler",
    "DEFAULT_PAGINATION_CLASS": None,
    "UNAUTHENTICATED_USER": None,
    "COMPACT_JSON": True,
}

SPECTACULAR_SETTINGS = {
    "TITLE": "nOpenAI Server",
    "DESCRIPTION": (
        "Inference as OpenAI's API has it, and the control plane: models, versions, replicas, nodes, the cache, "
        "tenants, API keys and usage. Every error has the "
        'shape `{"error": {"message", "type", "param", "code"}}`.'
    ),
    "VERSION": VERSION,
    "SERVE_INCLUDE_SCHEMA": False,
    # What operations are named without. The guide's own paths are there without the prefix, too: those keep it.
    "SCHEMA_PATH_PREFIX": r"/api/v1(?!/(cache|quotas|routing)/)|/v1",
    "ENUM_NAME_OVERRIDES": {"StateEnum": ["cold", "loading", "ready", "draining"]},
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "nopenai_site.schema.add_data_plane",
        "nopenai_site.schema.describe_errors",
    ],
}

# --- Admin -----------------------------------------------------------------------------------------------------------


def _page(title: str, icon: str, name: str, permission: str) -> dict[str, object]:
    """An entry of the sidebar, shown to whoever may view what it leads to."""
    return {
        "title": title,
        "icon": icon,
        "link": reverse_lazy(f"admin:{name}_changelist"),
        "permission": lambda request: request.user.has_perm(permission),
    }


# Tailwind's violet, but for 400 and 500: those are letters on dark ground, where its own have too little contrast.
_PRIMARY = {
    "50": "oklch(96.9% .016 293.8)",
    "100": "oklch(94.3% .029 294.6)",
    "200": "oklch(89.4% .057 293.3)",
    "300": "oklch(81.1% .111 293.6)",
    "400": "oklch(75.5% .149 293.6)",
    "500": "oklch(70.2% .183 293.5)",
    "600": "oklch(54.1% .281 293)",
    "700": "oklch(49.1% .27 292.6)",
    "800": "oklch(43.2% .232 292.8)",
    "900": "oklch(38% .189 293.7)",
    "950": "oklch(28.3% .141 291.1)",
}
UNFOLD = {
    "SITE_TITLE": "nOpenAI Server",
    "SITE_HEADER": "nOpenAI Server",
    "SITE_SUBHEADER": f"node {NOPENAI.node_name}",
    "SITE_SYMBOL": "hub",
    "SITE_URL": None,
    "SHOW_VIEW_ON_SITE": False,
    "COLORS": {"primary": _PRIMARY},
    "SITE_FAVICONS": [
        {"rel": "icon", "type": "image/svg+xml", "href": lambda request: static("nopenai/icon.svg")},
    ],
    "DASHBOARD_CALLBACK": "nopenai_site.dashboard.show",
    "SCRIPTS": [lambda request: static("nopenai/post-actions.js")],
    "SIDEBAR": {
        "show_search": False,
        "show_all_applications": False,
        "navigation": [
            {
                "title": "Inference",
                "items": [
                    _page("Models", "neurology", "registry_model", "registry.view_model"),
                    _page("Versions", "history", "registry_version", "registry.view_version"),
                    _page("Backends", "cloud", "registry_remotebackend", "registry.view_remotebackend"),
                    _page("Replicas", "memory", "registry_replica", "registry.view_replica"),
                    _page("Nodes", "dns", "registry_node", "registry.view_node"),
                    _page("Routing", "alt_route", "routing_routingrevision", "routing.view_routingrevision"),
                    _page("KV cache", "cached", "registry_cacherevision", "registry.view_cacherevision"),
                    _page("Shared prompts", "communities", "registry_sharedprompt", "registry.view_sharedprompt"),
                ],
            },
            {
                "title": "Access",
                "separator": True,
                "items": [
                    _page("Tenants", "apartment", "quotas_tenant", "quotas.view_tenant"),
                    _page("API keys", "key", "quotas_apikey", "quotas.view_apikey"),
                    _page("Limits", "speed", "quotas_limitedmodel", "quotas.view_limitedmodel"),
                    _page("Emergencies", "emergency_home", "quotas_emergency", "quotas.view_emergency"),
                    _page("Usage", "monitoring", "quotas_usage", "quotas.view_usage"),
                    _page("Users", "person", "auth_user", "auth.view_user"),
                    _page("Groups", "group", "auth_group", "auth.view_group"),
                ],
            },
            {
                "title": "Reference",
                "separator": True,
                "items": [{"title": "REST API", "icon": "api", "link": reverse_lazy("api-docs")}],
            },
        ],
    },
}
