"""Tables for spreadsheets: nothing in them is computed, and nothing is lost."""

import csv
import io
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas.usage.tables import Cell, csv_pieces


def written(*rows: Sequence[Cell]) -> list[list[str]]:
    return list(csv.reader(io.StringIO("".join(csv_pieces(["tenant", "requests"], rows)), newline="")))


def test_a_table_has_a_head_also_when_it_has_no_rows() -> None:
    assert written() == [["tenant", "requests"]]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", '=HYPERLINK("http://x","y")'])
def test_what_a_spreadsheet_would_compute_is_text(text: str) -> None:
    assert written([text, -1])[1] == [f"'{text}", "-1"]


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.integers()), max_size=5))
def test_every_cell_can_be_read_back(rows: list[tuple[str, int]]) -> None:
    read = written(*((text, number) for text, number in rows))[1:]
    assert [int(number) for _, number in read] == [number for _, number in rows]
    for (text, _), (cell, _) in zip(rows, read, strict=True):
        assert cell in (text, f"'{text}")


def test_a_long_table_comes_in_pieces() -> None:
    pieces = list(csv_pieces(["n"], ([number] for number in range(1200))))
    assert len(pieces) == 3
    assert "".join(pieces).split() == ["n", *map(str, range(1200))]
