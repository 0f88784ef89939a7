"""Names of a prompt's beginnings, by which a gateway finds the worker that has computed one before.

A gateway has no tokenizer, so it can't name blocks of KV. It names what it sees: a *chain* of links, one for each
message, or for each step of a plain prompt. Each link is a hash over the one before it and the text between, so equal
links mean equal beginnings. A worker remembers the links of prompts whose KV it holds and tells them to all gateways
(:class:`inference.protocol.HeldPrefixes`). SGLang's router matches text by radix trees in the same intent; hashes are
told apart by partition, are of one size, and hold nothing of the text.

Links are keyed as the names of blocks are (:mod:`inference.engine.cache.names`): with the partition's secret and the
salt, and with the shared partition's for leading messages that were declared shareable. Nobody outside a partition can
make a link within it, nor see from one what was asked.

A link is a hint for routing. What it leaves out (how long the answer may be, what it must look like, a message's
thoughts, ids of calls) may change the prompt in some templates: then a worker has less than the link promised, and
computes the rest.

Measured: 1.6 µs for a chat of one message, 1.3 µs for each further one, 1.5 ms for 512 KB of text.
"""

import hashlib
from collections.abc import Sequence

import msgspec

from inference.protocol import ChatMessage, Partition, Tool

LINK_BYTES = 16

MOST_LINKS = 512
"""Of one chain: what comes after them is not told apart. 512 KB of text is a prompt of about 128,000 tokens."""

STEP_CHARACTERS = 1024
STEP_TOKENS = 256
"""A plain prompt has a link after each step of so many; what remains at its end has none."""

_MARKUP_CHARACTERS = 16
"""What templates write around a message, in characters of text that would make as many tokens."""

_encode = msgspec.msgpack.Encoder().encode


def chat_chain(partition: Partition, messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> tuple[bytes, ...]:
    """A link for each message. ``tools``: those that the template shows, which it does before all messages: behind them
    nothing is shared."""
    chain: list[bytes] = []
    link = b""
    private = _chat_root(partition, tools)
    shared = 0 if tools else partition.shareable_messages
    root = _shared_root(partition) if shared else private
    for index, message in enumerate(messages[:MOST_LINKS]):
        link = _link(root if index < shared else private, link, _text_of(message))
        chain.append(link)
    return tuple(chain)


def chat_ends(messages: Sequence[ChatMessage], tools: Sequence[Tool]) -> list[int]:
    """How many characters each beginning of a chat has, with what templates write around its messages: tokens are
    estimated by their part of all. ``tools`` as in :func:`chat_chain`."""
    end = sum(len(tool.name) + len(tool.description) + len(tool.parameters) for tool in tools)
    ends = []
    for message in messages:
        end += _MARKUP_CHARACTERS + len(message.content)
        end += sum(len(call.name) + len(call.arguments) for call in message.tool_calls)
        ends.append(end)
    return ends


def after_answer(
    partition: Partition, chain: Sequence[bytes], answer: ChatMessage, tools: Sequence[Tool]
) -> tuple[bytes, ...]:
    """The link of a chat and its answer, under which the conversation's next turn looks for it; nothing where the
    chain has come to its end before."""
    if not chain or len(chain) == MOST_LINKS:
        return ()
    return (_link(_chat_root(partition, tools), chain[-1], _text_of(answer)),)


def text_chain(
    partition: Partition, text: str, *, infill: bool = False, known: tuple[bytes, ...] = ()
) -> tuple[bytes, ...]:
    """A link for each whole step of a plain prompt.

    Args:
        infill: special tokens come before it.
        known: the chain of its beginning, which is not computed again.
    """
    return known + _steps(_root(partition, "infill" if infill else "text"), text, STEP_CHARACTERS, known)


def token_chain(partition: Partition, tokens: Sequence[int], *, infill: bool = False) -> tuple[bytes, ...]:
    return _steps(_root(partition, "infill tokens" if infill else "tokens"), tokens, STEP_TOKENS, ())


def _steps(root: bytes, whole: str | Sequence[int], step: int, known: tuple[bytes, ...]) -> tuple[bytes, ...]:
    chain: list[bytes] = []
    link = known[-1] if known else b""
    for end in range((len(known) + 1) * step, min(len(whole), step * MOST_LINKS) + 1, step):
        link = _link(root, link, _encode(whole[end - step : end]))
        chain.append(link)
    return tuple(chain)


def _chat_root(partition: Partition, tools: Sequence[Tool]) -> bytes:
    return _root(partition, "chat", _encode(tools) if tools else b"")


def _root(partition: Partition, kind: str, shown: bytes = b"") -> bytes:
    return _keyed(partition.key, _encode((kind, partition.name, partition.salt, shown)))


def _shared_root(partition: Partition) -> bytes:
    return _keyed(partition.shared_key, _encode(("chat", partition.shared_name, "", b"")))


def _keyed(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32, key=key).digest()


def _link(root: bytes, before: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=LINK_BYTES, key=root + before).digest()


def _text_of(message: ChatMessage) -> bytes:
    """What every template shows of it, in a form that can't be mistaken for another's."""
    if message.tool_calls:
        calls = [(call.name, call.arguments) for call in message.tool_calls]
        return _encode((message.role, message.content, message.name, calls))
    return _encode((message.role, message.content, message.name))
