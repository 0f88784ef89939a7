"""Which links a worker remembers: bounded, the newest, and only while their blocks are there."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.engine.held import Answer, Held, answer_links, prompt_links
from inference.engine.output import Sent
from inference.prefixes import after_answer, chat_chain, text_chain
from inference.protocol import (
    CacheReport,
    ChatMessage,
    Generate,
    HeldPrefixes,
    Partition,
    TierReport,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolChoice,
)

OURS = Partition(name="ours", key=b"a" * 32)
NOTHING_WENT = CacheReport()


def went(blocks: int) -> CacheReport:
    return CacheReport(ram=TierReport(evicted_blocks=blocks))


def link(number: int) -> bytes:
    return number.to_bytes(16, "big")


def test_what_is_noted_is_told_once() -> None:
    held = Held({b"block"}.__contains__)
    held.note(link(1), 128, b"block")
    assert held.take_changes() == HeldPrefixes(added={link(1): 128})
    held.note(link(1), 128, b"block")
    assert held.take_changes() is None
    held.note(link(1), 130, b"block")
    assert held.take_changes() == HeldPrefixes(added={link(1): 130})


def test_a_link_without_a_block_is_not_held() -> None:
    held = Held({b"block"}.__contains__)
    held.note(link(1), 128, b"another")
    assert (len(held), held.take_changes()) == (0, None)


def test_the_links_used_longest_ago_go_first() -> None:
    held = Held(lambda _: True, most=2)
    for number in (1, 2, 1, 3):
        held.note(link(number), 64, b"")
    assert held.take_changes() == HeldPrefixes(added={link(1): 64, link(3): 64}, removed=(link(2),))


def test_a_link_goes_with_its_block_once_something_went() -> None:
    blocks = {b"a", b"b"}
    held = Held(blocks.__contains__)
    held.note(link(1), 64, b"a")
    held.note(link(2), 64, b"b")
    held.take_changes()
    blocks.remove(b"a")
    held.check(NOTHING_WENT, idle=True)
    assert held.take_changes() is None
    held.check(went(1), idle=True)
    assert held.take_changes() == HeldPrefixes(removed=(link(1),))
    held.check(went(1), idle=True)
    assert held.take_changes() is None


def test_while_others_wait_a_part_of_them_is_looked_up_at_a_time() -> None:
    asked: list[bytes] = []
    held = Held(lambda block: not asked.append(block))  # type: ignore[func-returns-value]
    for number in range(300):
        held.note(link(number), 64, link(number))
    asked.clear()
    seen = []
    for _ in range(4):
        held.check(went(1), idle=False)
        seen.append(len(asked))
    assert seen == [128, 256, 300, 300]
    assert len(set(asked)) == 300


def test_links_used_long_ago_are_looked_up_also_where_blocks_go_all_the_time() -> None:
    blocks = {link(number) for number in range(300)}
    held = Held(blocks.__contains__)
    for number in range(300):
        held.note(link(number), 64, link(number))
    held.take_changes()
    blocks -= {link(0), link(299)}
    held.check(went(1), idle=False)
    assert held.take_changes() == HeldPrefixes(removed=(link(0),))
    for more in range(2):
        held.check(went(2 + more), idle=False)
    assert held.take_changes() == HeldPrefixes(removed=(link(299),))
    blocks.remove(link(1))
    held.check(went(4), idle=False)
    assert held.take_changes() == HeldPrefixes(removed=(link(1),))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.tuples(st.sampled_from(["note", "lose", "check", "tell"]), st.integers(0, 6), st.integers(64, 66)),
        max_size=60,
    )
)
def test_what_gateways_put_together_is_what_is_held(steps: list[tuple[str, int, int]]) -> None:
    blocks = {link(number) for number in range(7)}
    held = Held(blocks.__contains__, most=4)
    told: dict[bytes, int] = {}
    lost = 0

    def tell() -> None:
        if changes := held.take_changes():
            told.update(changes.added)
            for each in changes.removed:
                told.pop(each, None)

    for step, number, tokens in steps:
        if step == "note":
            held.note(link(number), tokens, link(number))
        elif step == "lose":
            blocks.discard(link(number))
            lost += 1
        elif step == "check":
            held.check(went(lost), idle=True)
        else:
            tell()
        assert len(held) <= 4
    held.check(went(lost + 1), idle=True)
    tell()
    assert len(told) == len(held)
    assert told.keys() <= blocks


# --- What links stand for ---


def chat(*messages: ChatMessage, **fields: object) -> Generate:
    tools: tuple[Tool, ...] = fields.get("tools", ())  # type: ignore[assignment]
    prefixes = chat_chain(OURS, messages, tools)
    return Generate(id=1, request_id="r", messages=messages, partition=OURS, prefixes=prefixes, **fields)  # type: ignore[arg-type]


def test_all_messages_are_the_whole_prompt_and_fewer_are_their_part_of_it() -> None:
    request = chat(ChatMessage("system", "x" * 184), ChatMessage("user", "y" * 184))
    assert [tokens for _, tokens in prompt_links(request, 100)] == [50, 100]
    tool = Tool("weather", parameters="z" * 393)
    assert [tokens for _, tokens in prompt_links(chat(*request.messages or (), tools=(tool,)), 100)] == [75, 100]


def test_steps_of_text_and_of_tokens_stand_for_as_much() -> None:
    text = "x" * 4000
    request = Generate(id=1, request_id="r", text=text, prefixes=text_chain(OURS, text))
    assert [tokens for _, tokens in prompt_links(request, 1000)] == [256, 512, 768]
    request = Generate(id=1, request_id="r", tokens=(1,) * 600, prefixes=(b"a", b"b"))
    assert list(prompt_links(request, 600)) == [(b"a", 256), (b"b", 512)]
    assert list(prompt_links(Generate(id=1, request_id="r", text="Hi"), 1)) == []


def test_an_answer_is_read_as_its_client_sends_it_back() -> None:
    answer = Answer()
    answer.take(Sent(reasoning="hm"))
    answer.take(Sent("Let me "))
    answer.take(Sent("see."))
    answer.take(Sent(tool_calls=(ToolCallDelta(0, "id", "weather", '{"a'),)))
    answer.take(Sent(tool_calls=(ToolCallDelta(0, arguments='":1}'), ToolCallDelta(1, "id2", "time"))))
    assert answer.thoughts
    calls = (ToolCall("", "weather", '{"a":1}'), ToolCall("", "time", ""))
    assert answer.message == ChatMessage("assistant", "Let me see.", tool_calls=calls)


def test_an_answer_adds_to_its_prompts_chain() -> None:
    answer = Answer()
    answer.take(Sent("Ho"))
    asked = chat(ChatMessage("user", "Hi"))
    assert answer_links(asked, answer) == after_answer(OURS, asked.prefixes, ChatMessage("assistant", "Ho"), ())
    hidden = chat(ChatMessage("user", "Hi"), tool_choice=ToolChoice.NONE)
    assert answer_links(hidden, answer) == answer_links(asked, answer)

    long = Answer()
    long.take(Sent("x" * 1100))
    completion = Generate(id=1, request_id="r", text="y" * 1000, partition=OURS)
    assert answer_links(completion, long) == text_chain(OURS, "y" * 1000 + "x" * 1100)
    infill = Generate(id=1, request_id="r", text="y" * 1000, suffix="z", partition=OURS)
    uncached = Generate(id=1, request_id="r", text="y" * 1000)
    tokens = Generate(id=1, request_id="r", tokens=(1,), partition=OURS)
    assert answer_links(infill, long) == answer_links(uncached, long) == answer_links(tokens, long) == ()
