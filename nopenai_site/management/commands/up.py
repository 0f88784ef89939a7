"""``manage.py up``, for `manage.py help` to list; ``manage.py`` itself starts it without Django, which it can spare."""

import sys
from typing import Any, NoReturn

from django.core.management.base import BaseCommand

from nopenai_site.up.command import run


class Command(BaseCommand):
    help = "Start the whole installation and stay until Ctrl-C: database, broker, gateway, web, supervisor, Celery."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> NoReturn:
        sys.exit(run([]))
