"""What clients may send as their trace, and what is passed on."""

import pytest

from inference.traces.context import Parent, new_span_id, new_trace_id, parent_of, traceparent

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


def test_a_client_tells_its_trace_its_span_and_whether_they_are_sampled() -> None:
    found = parent_of(f"00-{TRACE}-{SPAN}-01".encode(), b"vendor=1")
    assert found == Parent(trace_id=bytes.fromhex(TRACE), span_id=bytes.fromhex(SPAN), sampled=True, state="vendor=1")
    unsampled = parent_of(f"00-{TRACE}-{SPAN}-00".encode())
    assert unsampled is not None and not unsampled.sampled


def test_a_later_version_may_say_more() -> None:
    assert parent_of(f"cc-{TRACE}-{SPAN}-01-what-comes".encode()) is not None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n00-{TRACE}-{SPAN}-01",
        f"00-{'é' * 32}-{SPAN}-01",
    ],
)
def test_what_has_no_valid_form_is_not_there(header: str) -> None:
    assert parent_of(header.encode()) is None


def test_a_state_that_is_too_long_is_dropped_and_its_trace_kept() -> None:
    found = parent_of(f"00-{TRACE}-{SPAN}-01".encode(), b"x=" + b"y" * 600)
    assert found is not None and found.state == ""


def test_what_is_passed_on_is_read_as_it_was_meant() -> None:
    trace_id, span_id = new_trace_id(), new_span_id()
    for sampled in (True, False):
        assert parent_of(traceparent(trace_id, span_id, sampled=sampled).encode()) == Parent(
            trace_id=trace_id, span_id=span_id, sampled=sampled
        )
