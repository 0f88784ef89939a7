"""Usage as a table: rows of named cells, and their CSV for spreadsheets. Pure."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from zoneinfo import ZoneInfo

from quotas.usage.counts import COUNTED
from quotas.usage.questions import Dimension, Question

Cell = str | int | float | None

CONTENT_TYPE = "text/csv; charset=utf-8; header=present"

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""By which spreadsheets know what they should compute."""

_PIECE_ROWS = 500


def columns(question: Question) -> list[str]:
    """Of a question's answer, in their order."""
    named = {Dimension.MODEL: ("model",), Dimension.TENANT: ("tenant",), Dimension.KEY: ("key_id", "key_prefix")}
    when = ["starts_at"] if question.period else []
    return when + [name for each in question.by for name in named[each]] + list(COUNTED)


def csv_pieces(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> Iterator[str]:
    """A head and rows as RFC 4180 has them, some hundred at a time, so that a long table is never held as a whole."""
    page = io.StringIO()
    writer = csv.writer(page)
    writer.writerow(head)
    for number, row in enumerate(rows, start=1):
        writer.writerow([_harmless(cell) if isinstance(cell, str) else cell for cell in row])
        if number % _PIECE_ROWS == 0:
            yield _emptied(page)
    yield _emptied(page)


def moment_text(moment: datetime, zone: ZoneInfo) -> str:
    return moment.astimezone(zone).isoformat()


def file_name(start: datetime, end: datetime, zone: ZoneInfo) -> str:
    """From the first day to the last."""
    last = datetime.fromtimestamp(end.timestamp() - 1, zone)
    return f"usage_{start.astimezone(zone):%Y-%m-%d}_{last:%Y-%m-%d}.csv"


def _harmless(text: str) -> str:
    """Text that a spreadsheet would take for a formula begins with an apostrophe instead (OWASP: CSV injection)."""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text


def _emptied(page: io.StringIO) -> str:
    text = page.getvalue()
    page.seek(0)
    page.truncate()
    return text
