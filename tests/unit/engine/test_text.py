"""Nothing is sent that is half a character or part of a stop string."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.text import TextStream


def stream_bytes(text: str, stops: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(stops)
    parts = [stream.push(bytes([byte])) for byte in text.encode()]
    return [*parts, stream.finish()], stream


@pytest.mark.parametrize("text", ["مرحبا بالعالم", "👩‍👩‍👧‍👦 family", "naïve", "中文", "plain"])
def test_characters_are_whole_even_if_every_byte_is_a_token(text: str) -> None:
    parts, _ = stream_bytes(text)
    assert "".join(parts) == text
    assert all("\ufffd" not in part for part in parts)


def test_a_character_cut_off_by_the_end_is_left_out() -> None:
    stream = TextStream()
    assert stream.push("é".encode()[:1]) == ""
    assert stream.finish() == ""


def test_bytes_that_are_no_text_become_the_replacement_character() -> None:
    stream = TextStream()
    assert stream.push(b"a\xffb") == "a\ufffdb"


def test_a_stop_string_across_tokens_ends_the_text_before_it() -> None:
    stream = TextStream(["END"])
    assert [stream.push(piece) for piece in (b"one E", b"N", b"D two", b"three")] == ["one ", "", "", ""]
    assert stream.stopped and stream.finish() == ""


def test_text_that_only_looked_like_a_stop_string_is_sent_after_all() -> None:
    stream = TextStream(["END"])
    assert stream.push(b"EN") == ""
    assert stream.push(b"OUGH") == "ENOUGH"


def test_what_was_held_back_is_sent_at_the_end() -> None:
    stream = TextStream(["END"])
    assert stream.push(b"the EN") == "the "
    assert stream.finish() == "EN"


def test_the_earliest_stop_string_counts() -> None:
    stream = TextStream(["later", "soon"])
    assert stream.push(b"x soon later") == "x "


@given(st.text("abE", max_size=30), st.lists(st.text("abE", min_size=1, max_size=4), min_size=1, max_size=3))
def test_the_pieces_add_up_to_the_text_before_the_first_stop(text: str, stops: list[str]) -> None:
    parts, stream = stream_bytes(text, tuple(stops))
    # Byte by byte, the stop that is complete first wins; it begins where it is found in the text up to that byte.
    expected, stopped = text, False
    for end in range(len(text) + 1):
        starts = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if starts:
            expected, stopped = text[: min(starts)], True
            break
    assert "".join(parts) == expected
    assert stream.stopped is stopped
