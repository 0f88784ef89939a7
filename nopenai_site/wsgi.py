"""The web process: admin and REST API, behind the gateway."""

import logging
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings")

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

from inference.gateway.asgi import MAX_BODY_BYTES
from nopenai_site import logs, traces
from nopenai_site.requests import with_body_taken, with_known_length, with_request_id

logs.configure(settings.NOPENAI.log_level, module="web")
# Refusals are logged with their reason by nopenai_site.errors; from Django come the mistakes, with their tracebacks.
logging.getLogger("django.request").setLevel(logging.ERROR)
logging.getLogger("django.security.DisallowedHost").setLevel(logging.CRITICAL)

traces.instrument_django()
application = with_body_taken(
    with_request_id(with_known_length(get_wsgi_application(), limit_bytes=settings.DATA_UPLOAD_MAX_MEMORY_SIZE)),
    limit_bytes=MAX_BODY_BYTES,
)

# Import the views now: the first visitor shall not wait for it.
get_resolver().url_patterns  # noqa: B018
