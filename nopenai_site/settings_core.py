"""Django settings of the processes that only need the tables: gateway, supervisor, Celery.

They import half of what the web process does, which is most of their start-up time and memory.
"""

from django.utils.functional import SimpleLazyObject
from psycopg.conninfo import conninfo_to_dict

from nopenai_site import environment
from nopenai_site.secret_key import secret_key

NOPENAI = environment.load()

BASE_DIR = environment.PROJECT_ROOT
# Read when it is first needed: most commands and processes never sign or seal anything.
SECRET_KEY = SimpleLazyObject(lambda: secret_key(NOPENAI.data_dir))
DEBUG = False
ALLOWED_HOSTS: list[str] = []

INSTALLED_APPS = ["registry", "quotas", "routing"]
MIDDLEWARE: list[str] = []

DATABASE_URL = NOPENAI.database_url or environment.embedded_database_url(NOPENAI)
_connection = conninfo_to_dict(DATABASE_URL)
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _connection.pop("dbname", "nopenai"),
        "USER": _connection.pop("user", ""),
        "PASSWORD": _connection.pop("password", ""),
        "HOST": _connection.pop("host", ""),
        "PORT": _connection.pop("port", ""),
        # What is left are libpq's own parameters, such as sslmode.
        "OPTIONS": {"connect_timeout": 5, "application_name": "nopenai", **_connection},
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = NOPENAI.redis_url or environment.embedded_redis_url(NOPENAI)

USE_TZ = True
TIME_ZONE = NOPENAI.time_zone

# Every process logs through nopenai_site.logs, configured where the process starts.
LOGGING_CONFIG = None
