"""When memory is short."""

import pytest

from inference.supervisor.pressure import MemoryWatch, pressed_after


@pytest.mark.parametrize(
    ("before", "available", "after"),
    [(False, 29, True), (False, 30, False), (True, 59, True), (True, 60, False), (False, 0, True)],
)
def test_pressure_begins_below_three_percent_and_ends_above_six(before: bool, available: int, after: bool) -> None:
    assert pressed_after(before, available, 1000) is after


def test_gateways_are_told_when_it_begins_and_when_it_ends() -> None:
    available = [500, 20, 40, 70, 500]
    told: list[str] = []
    watch = MemoryWatch(
        lambda: told.append(watch.view().reason), available=lambda: available.pop(0) << 20, total=lambda: 1000 << 20
    )
    while available:
        watch.look()
    assert told == ["20 MB of this node's 1000 MB of memory are left", ""]
