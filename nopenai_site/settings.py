"""Django settings of the web process (admin, REST API) and of ``manage.py``."""

from nopenai_site.settings_core import *  # noqa: F403
from nopenai_site.settings_core import BASE_DIR, NOPENAI

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "nopenai_site",
    "registry",
    "quotas",
]
