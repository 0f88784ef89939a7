"""What the commands for operators share: refusals of services as messages, and tables."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import InterfaceError, OperationalError

from registry.errors import ApiError, first_line

Action = Callable[[dict[str, Any]], None]


class OperatorCommand(BaseCommand, ABC):
    """A command whose first argument, ``command``, names one of its actions; without it, it says what there is."""

    @abstractmethod
    def actions(self) -> Mapping[str, Action]:
        """What it can do, by the word that an operator types."""

    def handle(self, *args: Any, **options: Any) -> None:
        if options["command"] is None:
            name = type(self).__module__.rpartition(".")[2]
            self.stdout.write(self.create_parser("manage.py", name).format_help())
            return
        try:
            self.actions()[options["command"]](options)
        except ApiError as fault:
            raise CommandError(fault.message) from fault
        except (OperationalError, InterfaceError) as fault:
            raise CommandError(_unreachable(fault)) from fault

    def table(self, rows: Sequence[tuple[str, ...]]) -> None:
        """Columns as wide as their widest cell; the first row is the head."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            self.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _unreachable(fault: Exception) -> str:
    """Where the database was looked for, and how to look elsewhere."""
    own = settings.NOPENAI
    if own.database_url:
        return f"PostgreSQL can't be reached: check DATABASE_URL. ({first_line(fault)})"
    return (
        f"PostgreSQL can't be reached. The embedded one of the data directory {own.data_dir} was looked for; it runs "
        "while the server does: start it with `make run`. If the server runs with other settings, give this command "
        f"the same environment (NOPENAI_DATA_DIR, DATABASE_URL). ({first_line(fault)})"
    )
