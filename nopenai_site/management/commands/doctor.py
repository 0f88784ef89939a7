"""``manage.py doctor``: is this installation well, and if not, what to do. Exit status 1 if anything is to be done."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from nopenai_site.doctor import Finding, examine


class Command(BaseCommand):
    help = "Examine the whole installation; for each fault say what to do about it."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        faults = 0
        for finding in examine(settings.NOPENAI):
            faults += bool(finding.advice)
            self.stdout.write(self._line(finding))
        if faults:
            raise SystemExit(1)

    def _line(self, finding: Finding) -> str:
        if not finding.advice:
            return f"{self.style.SUCCESS('ok   ')} {finding.subject}: {finding.text}"
        return f"{self.style.ERROR('fault')} {finding.subject}: {finding.text}\n      → {finding.advice}"
