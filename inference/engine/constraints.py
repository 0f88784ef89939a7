"""Answers that must follow a grammar: compiling it, and which tokens it allows next.

The library is llguidance (Microsoft, MIT, no dependencies, 7.6 MB installed). Measured on two cores over a JSON schema
of 12 properties with a ``$ref``, an e-mail pattern and dates, and over "any object":

===================== ================ ================ ======================= ====================
                      mask, 49k tokens mask, 152k       compiling the schema    a catastrophe
===================== ================ ================ ======================= ====================
llguidance 1.9        0.03 ms, max 0.3 0.04 ms, max 0.8 0.9 ms (first: 2 ms)    an error within fuel
llama.cpp's grammars  9.7 ms, max 20   46 ms, max 344   its converter's output  throws through C or
                                                        did not parse           recurses without end
xgrammar 0.2          (its wheel wants torch, transformers and triton: gigabytes)
===================== ================ ================ ======================= ====================

The tokenizer's trie takes 0.1 s (49k) to 0.5 s (152k) once, at the first request that needs it.

What a request's schema may cost is bounded three times: by its size and shape before llguidance sees it
(:mod:`inference.engine.schemas`), by llguidance's own fuel while it compiles, and by less fuel at each token.
"""

import threading
from collections import OrderedDict
from typing import Protocol

import llguidance
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

_KEPT_GRAMMARS = 64
"""Clients repeat their schemas: a compiled one is found by its text."""

MAX_GRAMMAR_CHARACTERS = 128 * 1024
"""A grammar may hold the schemas of many tools. This much takes up to 0.3 s to compile."""

_LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=500_000,  # about 10 ms of building regular expressions
    step_lexer_fuel=100_000,  # about 7 ms at one token, while all other streams wait
    step_max_items=20_000,
    max_lexer_states=10_000,  # at 1–2 KB each
    max_grammar_size=100_000,
    verbose_errors=False,
)


class GrammarRefused(Exception):
    """The grammar can't be compiled or can't be met; ``str()`` says why, to the client."""


class Vocabulary(Protocol):
    """What is asked of a model; :class:`inference.engine.llama.Model` has it."""

    vocabulary_size: int

    def piece(self, token: int) -> bytes: ...
    def is_end(self, token: int) -> bool: ...
    def tokenize(self, text: str, *, add_special: bool) -> list[int]: ...


class Constraint:
    """Where one choice stands in its grammar."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary_size: int) -> None:
        self._matcher = matcher
        self._vocabulary_size = vocabulary_size
        self.fault = ""
        """Why the grammar can't be followed further; empty: it can."""

    @property
    def complete(self) -> bool:
        """Nothing may follow but the end."""
        return self._matcher.is_stopped()

    def allow(self, logits: FloatArray) -> FloatArray:
        """A row of logits with −∞ for every token that the grammar does not allow here.

        End tokens are allowed only where the grammar may end. When llguidance gives up, ``fault`` is set and the row
        comes back as it was.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            self.fault = _told(self._matcher.get_error())
            return logits
        allowed = np.unpackbits(bits, bitorder="little", count=self._vocabulary_size).view(np.bool_)
        return np.where(allowed, logits, np.float32(-np.inf))

    def accept(self, token: int) -> None:
        """``token`` was chosen."""
        if not self._matcher.consume_token(token) and not self.fault:
            self.fault = _told(self._matcher.get_error())


class Grammars:
    """Compiles grammars for one vocabulary. Thread-safe; compile outside of the engine's thread."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._compiled: OrderedDict[str, llguidance.LLMatcher] = OrderedDict()
        # One at a time: what hostile grammars cost, they cost one core.
        self._lock = threading.Lock()

    def compile(self, grammar: str) -> Constraint:
        """The beginning of ``grammar``, which is llguidance's: Lark text, or its JSON form.

        Raises:
            GrammarRefused: it is wrong, too complex, or nothing meets it.
        """
        if len(grammar) > MAX_GRAMMAR_CHARACTERS:
            raise GrammarRefused(f"it has {len(grammar)} characters, and at most {MAX_GRAMMAR_CHARACTERS} are taken")
        with self._lock:
            matcher = self._compiled.get(grammar)
            if matcher is None:
                matcher = self._compiled[grammar] = self._compile(grammar)
                if len(self._compiled) > _KEPT_GRAMMARS:
                    self._compiled.popitem(last=False)
            self._compiled.move_to_end(grammar)
            return Constraint(matcher.deep_copy(), self._vocabulary.vocabulary_size)

    def _compile(self, grammar: str) -> llguidance.LLMatcher:
        if self._tokenizer is None:
            self._tokenizer = _tokenizer_of(self._vocabulary)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)
        if not matcher.is_error():
            # The first mask finds what compiling does not: that no text at all meets the grammar.
            matcher.compute_bitmask()
        if matcher.is_error():
            raise GrammarRefused(_told(matcher.get_error()))
        return matcher


def fork(constraint: Constraint) -> Constraint:
    """A second one that stands where ``constraint`` does: every choice of a request goes its own way."""
    return Constraint(constraint._matcher.deep_copy(), constraint._vocabulary_size)


def _tokenizer_of(vocabulary: Vocabulary) -> llguidance.LLTokenizer:
    """Tokens without text (control tokens) and end tokens are never part of a text that a grammar describes."""
    count = vocabulary.vocabulary_size
    ends = [token for token in range(count) if vocabulary.is_end(token)]
    pieces = [vocabulary.piece(token) for token in range(count)]
    special = set(ends) | {token for token, piece in enumerate(pieces) if not piece}
    if not ends:
        # A model without an end: one beyond the vocabulary, which nobody can choose.
        ends, special = [count], special | {count}
        pieces.append(b"")
    named = [b"<|%d|>" % token if token in special else piece for token, piece in enumerate(pieces)]
    wrapper = llguidance.TokenizerWrapper(_Tokens(vocabulary, named, sorted(special), ends[0]))
    return llguidance.LLTokenizer(wrapper, eos_token=ends)


class _Tokens:
    """A tokenizer as llguidance wants to see it."""

    bos_token_id = None

    def __init__(self, vocabulary: Vocabulary, tokens: list[bytes], special: list[int], end: int) -> None:
        self._vocabulary = vocabulary
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end

    def __call__(self, text: bytes | str) -> list[int]:
        plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return self._vocabulary.tokenize(plain, add_special=False)


_OWN_WORDS = {
    "NoExtensionBias": "no text meets it: it asks for something that can never end, or for contradictory things",
    "too many expressions": "it has patterns or counts that grow too large",
    "fuel": "it is too complex",
    "items": "it is too complex: it leaves too many ways open at one place",
    "too big": "it is too large",
    "too large": "it is too large",
    "recursion limit": "it is nested too deeply",
}


def _told(error: str) -> str:
    """llguidance's error in the client's terms: no dump of the parser's state, no position in a grammar of ours."""
    line = next((line for line in error.splitlines() if line.strip()), "it can't be compiled")
    line = line.partition("failed to compile JSON schema: ")[2] or line
    if line.endswith("regex parse error:"):  # what is wrong comes after the pattern and a mark below it
        line += "".join(f" {each.strip()}" for each in error.splitlines() if each.startswith("error: "))
    for sign, words in _OWN_WORDS.items():
        if sign in line:
            return words
    return line.strip()[:300]
