"""The web process: admin and REST API, behind the gateway."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "nopenai_site.settings")

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

from nopenai_site import logs

logs.configure(settings.NOPENAI.log_level)

application = get_wsgi_application()

# Import the views now: the first visitor shall not wait for it.
get_resolver().url_patterns  # noqa: B018
