"""Lines of a recording, sound and not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routing.replay.records import FORMAT, BadRecording, Facts, Fleet, Head, Wanted, encode_line, recording_of
from tests.unit.routing.replay.traces import a_link, a_recording, an_arrival

HEAD = encode_line(Head(format=FORMAT))
ONE = encode_line(an_arrival(1.0))


def test_what_is_written_is_read_back_in_the_order_of_arrivals() -> None:
    arrivals = [an_arrival(float(at), session="s", links=a_link(at), ends=(9,), models=("a",)) for at in (2, 1)]
    recording = a_recording(*arrivals, models={"a": Facts(version="1.0.0")})
    assert recording.arrivals == (arrivals[1], arrivals[0]) and not recording.damaged
    assert recording.arrivals[0].chain == (a_link(1),)


def test_files_of_several_processes_are_one_recording() -> None:
    files = {
        "one": [HEAD, encode_line(Fleet(at=1.0, models={"a": Facts(version="1.0.0")})), encode_line(an_arrival(3.0))],
        "two": [HEAD, encode_line(Fleet(at=2.5, models={"b": Facts(version="1.0.0")})), encode_line(an_arrival(2.0))],
    }
    recording = recording_of(files)
    assert [each.at for each in recording.arrivals] == [2.0, 3.0]
    assert recording.models.keys() == {"a", "b"}


def test_of_a_long_recording_only_what_is_wanted_is_kept() -> None:
    fleets = [Fleet(at=float(at), models={f"m{at}": Facts(version="1.0.0")}) for at in (0, 40, 80, 120)]
    lines = [HEAD, *map(encode_line, fleets), *(encode_line(an_arrival(float(at))) for at in range(100))]
    wanted = Wanted(since=20.0, until=70.0, most=20)
    recording = recording_of({"file": lines}, wanted)
    assert [each.at for each in recording.arrivals] == [float(at) for at in range(50, 70)]
    assert recording.models.keys() == {"m40"}
    assert recording_of({"file": lines}, Wanted(until=70.0)).models.keys() == {"m0", "m40"}


@pytest.mark.parametrize(
    "line",
    [
        b'{"is":"request","at":1.0,"rou\n',
        b"\xff\xfe\n",
        b'{"is":"something","at":1}\n',
        b'{"is":"request","at":"noon","route":"auto","model":"a"}\n',
        encode_line(an_arrival(1.0, prompt_tokens=-1)),
        encode_line(an_arrival(1.0, prompt_tokens=5, cached_tokens=6)),
        encode_line(an_arrival(1.0, choices=0)),
        b'{"is":"request","at":1e999,"route":"auto","model":"a"}\n',
        encode_line(an_arrival(1.0, links=b"12345678")),
        encode_line(an_arrival(1.0, token_seconds=-0.5)),
    ],
)
def test_a_damaged_line_is_left_out_and_counted(line: bytes) -> None:
    recording = recording_of({"file": [HEAD, line, ONE]})
    assert len(recording.arrivals) == 1 and recording.damaged == 1


@given(st.lists(st.binary(max_size=80)))
def test_whatever_stands_in_a_file_it_ends_in_a_recording_or_its_refusal(rows: list[bytes]) -> None:
    assert len(recording_of({"file": [HEAD, *rows, ONE]}).arrivals) >= 1
    with pytest.raises(BadRecording):
        recording_of({"file": rows})


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({}, "There is no file"),
        ({"f": []}, "No request is recorded in f"),
        ({"f": [HEAD]}, "No request is recorded in f"),
        ({"f": [HEAD, b"{\n"]}, "and 1 lines can't be read"),
        ({"f": [b'{"timestamp":"2026"}\n', ONE]}, "f is no recording of arrivals"),
        ({"f": [b"GGUF\n", ONE]}, "f is no recording of arrivals"),
        ({"f": [encode_line(Head(format=FORMAT + 1)), ONE]}, f"of format {FORMAT + 1}, and this server reads"),
    ],
)
def test_what_is_no_recording_is_refused_with_the_reason(files: dict[str, list[bytes]], reason: str) -> None:
    with pytest.raises(BadRecording, match=reason):
        recording_of(files)


@pytest.mark.parametrize(("cached", "held", "tokens"), [(0, 0, 0), (40, 0, 0), (41, 1, 80), (85, 1, 80), (95, 2, 99)])
def test_of_what_was_cached_whole_beginnings_count(cached: int, held: int, tokens: int) -> None:
    arrival = an_arrival(1.0, cached_tokens=cached, links=a_link(1) + a_link(2), ends=(80, 100))
    assert (arrival.held, arrival.held_tokens) == (held, tokens)
