"""Prompt lookup: guess the next tokens from what stands in the sequence already, and have them computed in one step.

Saxena 2023, "Prompt Lookup Decoding": where the last few tokens occurred before, what followed them there is likely to
follow again (quotations, edits of code, lists, loops of small models). A step over several tokens of one sequence takes
less time than as many steps, so guesses pay if enough of them are right. Each is checked against the token that the
sampler chooses from the model's own logits, so nothing but speed depends on them, at any temperature.

A :class:`Lookup` judges itself all the time, whether its guesses are computed or not, which costs two look-ups in a
dictionary a token. Only where it has just been right is anything computed (:func:`draft_tokens`): text that does not
repeat itself is never slowed down.
"""

import math
from typing import Final

from inference.protocol import EngineParameters

MATCH_TOKENS: Final = 3
"""So many tokens must have occurred before, in this order."""
MOST_DRAFT_TOKENS: Final = 15
"""With the token before them a batch of 16, for which matrix kernels are made."""
_DRAFT_COST: Final = 0.5
"""Of a machine where nothing was measured. SmolLM2-135M on two cores has 0.43, memory-bound machines less."""

_MEMORY = 0.1
"""Weight of the newest guess in the accuracy: after eight right ones in a row it is 0.57. Greedy answers of SmolLM2 to
sixteen prompts took 0.76 of the time, geometric mean, and none longer; with 0.2 to 0.5 some took 1 % longer."""


class Lookup:
    """Guesses for one sequence, and how good they were."""

    def __init__(self, tokens: list[int]) -> None:
        """``tokens``: the sequence's own, which grow; :meth:`appended` is to be called for each. About 0.4 µs each."""
        self._tokens = tokens
        self._behind: dict[tuple[int, ...], int] = {}
        """Where what followed each few tokens stands, the last time that they occurred."""
        self._next: int | None = None
        """Where the guess for the next token stands."""
        self.accuracy = 0.0
        """About the probability that the next guess is right."""
        for end in range(MATCH_TOKENS, len(tokens)):
            self._behind[tuple(tokens[end - MATCH_TOKENS : end])] = end
        self._find()

    def appended(self) -> None:
        """The sequence has one more token."""
        token = self._tokens[-1]
        if self._next is None:
            self._find()
            return
        right = self._tokens[self._next] == token
        self.accuracy += _MEMORY * (right - self.accuracy)
        self._next += 1
        self._find(keep=right)

    @property
    def found(self) -> bool:
        """There is something to guess from."""
        return self._next is not None

    def guess(self, count: int) -> tuple[int, ...]:
        """The next ``count`` tokens, if what was found goes on; none if nothing was found."""
        if self._next is None:
            return ()
        guessed: list[int] = []
        for at in range(self._next, self._next + count):
            beyond = at - len(self._tokens)  # a loop: what follows is what was guessed
            guessed.append(self._tokens[at] if beyond < 0 else guessed[beyond])
        return tuple(guessed)

    def _find(self, *, keep: bool = False) -> None:
        """Note the last tokens, and look where they occurred before, unless the place found earlier still goes on."""
        last = tuple(self._tokens[-MATCH_TOKENS:])
        if len(last) == MATCH_TOKENS:
            if not keep:
                self._next = self._behind.get(last)
            self._behind[last] = len(self._tokens)


def draft_cost(parameters: EngineParameters, *, recurrent: bool) -> float:
    """Of :func:`draft_tokens`; 1: nothing is to be guessed."""
    if parameters.prompt_lookup is False or recurrent:
        return 1.0
    return parameters.draft_cost or _DRAFT_COST


def draft_tokens(accuracy: float, sequences: int, cost: float) -> int:
    """How many guesses are worth computing: each as long as it is likelier to be right than what it costs of the step.

    A step takes ``a + b·n`` for n tokens. With s sequences a token costs ``a/s + b``, another one in the same step b:
    it pays if the probability that it is used, which is that of all before it and itself being right, exceeds
    ``b / (a/s + b)``.

    Args:
        accuracy: the probability that a guess is right if those before it were.
        sequences: that are decoded in the step.
        cost: ``b / (a + b)``: what a step of one sequence takes longer for one more token, as a part of it.
    """
    least = cost / ((1.0 - cost) / sequences + cost)
    if accuracy <= least:
        return 0
    if accuracy**MOST_DRAFT_TOKENS >= least:
        return MOST_DRAFT_TOKENS
    return int(math.log(least) / math.log(accuracy))
