"""Tokens in, what a client gets out: the same however a model cuts its text into tokens."""

from collections.abc import Sequence

import pytest

from inference.engine.output import Output, Reading, Sent
from inference.engine.thinking import Markers, markers_of
from inference.engine.tools.hermes import HERMES
from inference.engine.tools.mistral import MISTRAL
from inference.protocol import FinishReason, TokenLogprob

THINK = Markers("<think>", "</think>")
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'


def everything(reading: Reading, pieces: Sequence[bytes]) -> tuple[str, str, str, FinishReason]:
    """Text, thoughts, arguments of calls, and the reason."""
    output = Output(reading)
    sent: list[Sent] = []
    for piece in pieces:
        sent.append(output.push(0, piece))
        if output.stopped:
            break
    last, reason = output.finish(FinishReason.STOP)
    sent.append(last)
    arguments = "".join(delta.arguments for each in sent for delta in each.tool_calls)
    return "".join(each.text for each in sent), "".join(each.reasoning for each in sent), arguments, reason


def everything_however_cut(reading: Reading, text: str) -> tuple[str, str, str, FinishReason]:
    raw = text.encode()
    whole = everything(reading, [raw])
    assert everything(reading, [raw[i : i + 1] for i in range(len(raw))]) == whole
    for cut in range(1, len(raw)):
        assert everything(reading, [raw[:cut], raw[cut:]]) == whole
    return whole


def test_plain_text_passes_as_it_is() -> None:
    assert everything_however_cut(Reading(), "مرحبا 🙂 <think> <tool_call>") == (
        "مرحبا 🙂 <think> <tool_call>",
        "",
        "",
        FinishReason.STOP,
    )


THOUGHTS = [
    ("", "<think>\nHm, é.\n\nSo.\n</think>\n\nYes.", "Yes.", "Hm, é.\n\nSo."),
    ("", "\n<think>a</think>b", "b", "a"),
    ("", "<think></think>b", "b", ""),
    ("", "Yes, <think>no</think>.", "Yes, <think>no</think>.", ""),
    ("", "  Yes.", "  Yes.", ""),
    ("", "<thin", "<thin", ""),
    ("", "<think>never ends </thi", "", "never ends </thi"),
    ("…assistant\n<think>\n", "a </ b\n</think>\nYes </think>", "Yes </think>", "a </ b"),
    ("…assistant\n<think>\n", "<think>\na</think>", "", "a"),
    ("…assistant\n<think>\n\n</think>\n\n", "Yes.", "Yes.", ""),
    ("…assistant\n<think>", "cut off ", "", "cut off"),
]


@pytest.mark.parametrize(("prompt", "written", "text", "thoughts"), THOUGHTS)
def test_thoughts_are_told_apart_from_the_answer(prompt: str, written: str, text: str, thoughts: str) -> None:
    reading = Reading(thinking=THINK, prompt_end=prompt)
    assert everything_however_cut(reading, written)[:2] == (text, thoughts)


def test_thoughts_are_only_looked_for_where_the_template_shows_them() -> None:
    assert markers_of("{{ messages }}") is None
    assert markers_of(None) is None
    assert markers_of("{% if x %}<think>{% endif %}") == THINK
    assert markers_of("[THINK]…[/THINK]") == Markers("[THINK]", "[/THINK]")


def test_a_constraint_waits_for_the_end_of_the_thoughts() -> None:
    output = Output(Reading(thinking=THINK, prompt_end="<think>\n"))
    seen = [output.thinking]
    for piece in (b"so", b" then</th", b"ink>", b"{"):
        output.push(0, piece)
        seen.append(output.thinking)
    assert seen == [True, True, True, False, False]
    assert not Output(Reading(thinking=THINK, prompt_end="assistant\n")).thinking


def test_calls_come_after_thoughts_and_thoughts_hold_no_calls() -> None:
    reading = Reading(thinking=THINK, form=HERMES, tools=frozenset({"add"}))
    written = f"<think>Perhaps {CALL}</think>\n\nLet me.\n{CALL}"
    assert everything_however_cut(reading, written) == (
        "Let me.",
        f"Perhaps {CALL}",
        '{"a": 1}',
        FinishReason.TOOL_CALLS,
    )


def test_the_reason_is_tool_calls_only_if_a_call_was_made_and_the_end_was_the_models() -> None:
    reading = Reading(form=HERMES, tools=frozenset({"add"}))
    assert everything(reading, [b"no call"])[3] is FinishReason.STOP
    output = Output(reading)
    output.push(0, CALL[:-20].encode())
    assert output.finish(FinishReason.LENGTH)[1] is FinishReason.LENGTH


def test_one_call_only_ends_the_choice_after_it() -> None:
    reading = Reading(form=HERMES, tools=frozenset({"add"}), parallel=False)
    assert everything(reading, [CALL.encode(), b"\n" + CALL.encode()]) == ("", "", '{"a": 1}', FinishReason.TOOL_CALLS)


def test_a_stop_string_cuts_the_text_as_the_model_wrote_it() -> None:
    assert everything_however_cut(Reading(stops=("END",)), "one EN two END three")[0] == "one EN two "
    assert everything_however_cut(Reading(stops=("</x>",), thinking=THINK), "<think>a</x>")[1] == "a"


def test_control_tokens_that_mark_calls_are_read_as_their_text() -> None:
    output = Output(Reading(form=MISTRAL, tools=frozenset({"now"}), spelled={7: b"[TOOL_CALLS]"}))
    output.push(7, b"")
    (delta,) = output.push(0, b'[{"name": "now", "arguments": {}}]').tool_calls
    assert (delta.name, delta.arguments) == ("now", "{}")


def logprob(piece: bytes) -> TokenLogprob:
    return TokenLogprob(token=1, piece=piece, logprob=-1.0)


def tokens_sent(reading: Reading, pieces: Sequence[bytes]) -> list[list[bytes]]:
    output, sent = Output(reading), []
    for piece in pieces:
        sent.append(output.push(0, piece, logprob(piece)))
        if output.stopped:
            break
    sent.append(output.finish(FinishReason.STOP)[0])
    return [[entry.piece for entry in each.logprobs] for each in sent]


def test_log_probabilities_come_with_the_text_of_their_tokens() -> None:
    assert tokens_sent(Reading(), [b"one", b" two"]) == [[b"one"], [b" two"], []]


def test_those_of_half_characters_come_with_the_character() -> None:
    first, second = "é".encode()[:1], "é".encode()[1:]
    assert tokens_sent(Reading(), [b"a", first, second]) == [[b"a"], [], [first, second], []]


def test_those_of_a_stop_string_never_come() -> None:
    assert tokens_sent(Reading(stops=("END",)), [b"one", b" E", b"ND"]) == [[b"one"], [b" E"], [], []]
    assert tokens_sent(Reading(stops=("END",)), [b"one", b"E", b"N"]) == [[b"one"], [], [], [b"E", b"N"]]


def test_every_token_of_calls_and_thoughts_is_told_once() -> None:
    reading = Reading(thinking=THINK, form=HERMES, tools=frozenset({"add"}))
    pieces = [bytes([byte]) for byte in f"<think>a</think>b {CALL}".encode()]
    assert [piece for sent in tokens_sent(reading, pieces) for piece in sent] == pieces
