"""Texts for the benchmarks: as long as wanted, different for each stream and round, the same for every server."""

import random

SUBJECTS = ("the sea", "a red fox", "old maps", "winter", "a lighthouse", "bread", "the moon", "two brothers")

_WORDS = (
    "river",
    "stone",
    "market",
    "morning",
    "letter",
    "garden",
    "captain",
    "bridge",
    "window",
    "silver",
    "forest",
    "candle",
    "harbor",
    "music",
    "shadow",
    "teacher",
    "engine",
    "village",
    "winter",
    "copper",
    "orange",
    "ladder",
    "castle",
    "pocket",
    "travel",
    "summer",
    "yellow",
    "island",
    "paper",
    "kitchen",
    "simple",
    "thunder",
    "little",
    "quiet",
    "narrow",
    "open",
    "walks",
    "carries",
    "builds",
    "finds",
    "opens",
    "writes",
    "brings",
    "watches",
    "under",
    "over",
    "beside",
    "after",
    "before",
)
TOKENS_A_WORD = 1.03
"""Of these words, with SmolLM2's vocabulary, about; who needs a length exactly reads the server's count."""


def story(stream: int, round: int) -> str:
    """About 50 tokens."""
    subject = SUBJECTS[stream % len(SUBJECTS)]
    return (
        f"Story number {round * 100 + stream}. Write a long story about {subject}. Begin with the weather of the day, "
        "then tell who comes along the road, what they carry, and why nobody in the village is surprised."
    )


def words(seed: int, tokens: int) -> str:
    """About so many tokens of words in an order of their own, from the first word on."""
    chosen = random.Random(seed).choices(_WORDS, k=int(tokens / TOKENS_A_WORD))
    return f"Text {seed}: " + " ".join(chosen) + "."
