"""Log probabilities as OpenAI's two endpoints write them."""

import codecs
from collections.abc import Iterable, Sequence
from typing import Any

from inference.protocol import TokenLogprob

_LEAST = -9999.0
"""OpenAI's word for "never": JSON has no −∞."""


def of_chat(entries: Iterable[TokenLogprob]) -> dict[str, Any]:
    content = [_token(entry) | {"top_logprobs": [_token(other) for other in entry.top]} for entry in entries]
    return {"content": content, "refusal": None}


class CompletionLogprobs:
    """Of one choice: the text's offsets go on from one part of a stream to the next."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def skip(self, characters: int) -> None:
        """Text without log probabilities: the echoed prompt."""
        self._offset += characters

    def shape(self, entries: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for entry in entries:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(entry.piece))
        return {
            "tokens": [_legacy_name(entry.piece) for entry in entries],
            "token_logprobs": [_bounded(entry.logprob) for entry in entries],
            "top_logprobs": [_legacy_top(entry) for entry in entries] if any(entry.top for entry in entries) else None,
            "text_offset": offsets,
        }


def _token(entry: TokenLogprob) -> dict[str, Any]:
    text = entry.piece.decode("utf-8", "replace")
    return {"token": text, "logprob": _bounded(entry.logprob), "bytes": list(entry.piece)}


def _bounded(logprob: float | None) -> float | None:
    return None if logprob is None else max(logprob, _LEAST)


def _legacy_top(entry: TokenLogprob) -> dict[str, float | None]:
    """The likeliest, and the chosen one in any case."""
    return {_legacy_name(other.piece): _bounded(other.logprob) for other in (*entry.top, entry)}


def _legacy_name(piece: bytes) -> str:
    """Tokens that are a part of a character are told by their bytes, as this endpoint always did."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in piece)
