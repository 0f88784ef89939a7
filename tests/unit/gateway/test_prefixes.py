"""The names of prompts' beginnings: equal for equal beginnings of one partition, and for nothing else."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from inference.prefixes import (
    LINK_BYTES,
    MOST_LINKS,
    STEP_CHARACTERS,
    STEP_TOKENS,
    after_answer,
    chat_chain,
    text_chain,
    token_chain,
)
from inference.protocol import ChatMessage, Partition, Tool, ToolCall

OURS = Partition(name="ours", key=b"a" * 32)
THEIRS = Partition(name="theirs", key=b"b" * 32)
TOOL = Tool("weather", parameters='{"type":"object"}')

messages = st.builds(
    ChatMessage,
    st.sampled_from(["system", "user", "assistant"]),
    st.text(max_size=8),
    name=st.none() | st.text(max_size=3),
    tool_calls=st.just(()) | st.tuples(st.builds(ToolCall, st.just("id"), st.text(max_size=3), st.text(max_size=3))),
)


def shared_by(partition: Partition) -> Partition:
    return Partition(
        name=partition.name, key=partition.key, shared_name="shared", shared_key=b"s" * 32, shareable_messages=1
    )


def common(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    return sum(left == right for left, right in zip(one, other, strict=False))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(messages, max_size=6), st.lists(messages, max_size=6))
def test_two_chats_share_as_many_links_as_they_share_leading_messages(
    one: list[ChatMessage], other: list[ChatMessage]
) -> None:
    alike = 0
    while alike < min(len(one), len(other)) and one[alike] == other[alike]:
        alike += 1
    chains = chat_chain(OURS, one, ()), chat_chain(OURS, other, ())
    assert common(*chains) == alike
    assert [len(chain) for chain in chains] == [len(one), len(other)]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(min_size=1, max_size=50), st.text(max_size=4000), st.text(max_size=4000))
def test_two_texts_share_as_many_links_as_whole_steps(filler: str, one: str, other: str) -> None:
    beginning = (filler * 2 * STEP_CHARACTERS)[: 2 * STEP_CHARACTERS]
    chains = text_chain(OURS, beginning + one), text_chain(OURS, beginning + other)
    assert common(*chains) >= 2
    assert [len(chain) for chain in chains] == [2 + len(rest) // STEP_CHARACTERS for rest in (one, other)]


def test_nothing_is_equal_across_partitions_salts_and_ways_to_ask() -> None:
    text = "x" * STEP_CHARACTERS
    chat = [ChatMessage("user", text)]
    salted = Partition(name=OURS.name, key=OURS.key, salt="mine")
    renamed = Partition(name="other", key=OURS.key)
    chains = [chat_chain(each, chat, ()) for each in (OURS, THEIRS, salted, renamed)]
    chains += [text_chain(each, text) for each in (OURS, THEIRS, salted, renamed)]
    chains += [chat_chain(OURS, chat, (TOOL,)), text_chain(OURS, text, infill=True)]
    chains += [token_chain(OURS, [1] * STEP_TOKENS), token_chain(OURS, [1] * STEP_TOKENS, infill=True)]
    links = [link for chain in chains for link in chain]
    assert len(links) == len(set(links)) == len(chains)
    assert {len(link) for link in links} == {LINK_BYTES}


def test_declared_messages_are_shared_and_what_follows_is_not() -> None:
    chat = [ChatMessage("system", "You help."), ChatMessage("user", "Hi")]
    ours, theirs = (chat_chain(shared_by(each), chat, ()) for each in (OURS, THEIRS))
    assert (ours[0] == theirs[0], ours[1] == theirs[1]) == (True, False)
    assert common(ours, chat_chain(OURS, chat, ())) == 0


def test_behind_tools_nothing_is_shared_since_no_block_is() -> None:
    chat = [ChatMessage("system", "You help.")]
    ours, theirs = (chat_chain(shared_by(each), chat, (TOOL,)) for each in (OURS, THEIRS))
    assert ours != theirs


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(messages, min_size=1, max_size=4), st.text(max_size=20), st.sampled_from([(), (TOOL,)]))
def test_an_answer_leads_to_the_next_turn(chat: list[ChatMessage], said: str, tools: tuple[Tool, ...]) -> None:
    answer = ChatMessage("assistant", said)
    for partition in (OURS, shared_by(OURS)):
        asked = chat_chain(partition, chat, tools)
        next_turn = chat_chain(partition, [*chat, answer, ChatMessage("user", "And?")], tools)
        assert next_turn[: len(chat) + 1] == (*asked, *after_answer(partition, asked, answer, tools))


def test_a_text_and_what_was_written_after_it_have_one_chain() -> None:
    whole = "".join(map(str, range(3000)))
    known = text_chain(OURS, whole[:2500])
    assert text_chain(OURS, whole, known=known) == text_chain(OURS, whole)


def test_what_a_client_does_not_send_back_is_left_out() -> None:
    """Thoughts, and the ids of calls: many clients make ids anew."""
    call, again = (ToolCall(id, "weather", "{}") for id in ("a", "b"))
    one = ChatMessage("assistant", "", tool_calls=(call,), reasoning="hm")
    other = ChatMessage("assistant", "", tool_calls=(again,))
    assert chat_chain(OURS, [one], ()) == chat_chain(OURS, [other], ())


def test_a_chain_is_bounded() -> None:
    chain = chat_chain(OURS, [ChatMessage("user", "Hi")] * (MOST_LINKS + 5), ())
    assert len(chain) == MOST_LINKS
    assert after_answer(OURS, chain, ChatMessage("assistant", "Ho"), ()) == ()
    assert len(text_chain(OURS, "x" * STEP_CHARACTERS * (MOST_LINKS + 5))) == MOST_LINKS
    assert len(token_chain(OURS, (1,) * STEP_TOKENS * (MOST_LINKS + 5))) == MOST_LINKS
