"""Strategies on one trace: conversations that come back, and prompts that are new, before several real workers."""

import random
import shutil
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from tests.bench import servers
from tests.bench.cache import Messages
from tests.bench.prompts import words
from tests.bench.throughput import starter_model
from tests.bench.turns import Answer, Turn, answers_to
from tests.installation import Installation
from tests.waiting import wait_until

MODELS = ("alpha", "beta", "gamma")
"""Copies of one file: what differs is only where a conversation was before."""

ROUNDS = 3
"""Each strategy plays so often, in turns with the others, so that the machine's noise meets all alike."""

CONVERSATIONS = 8
TURNS = 4
AT_ONCE = 3
HEAD_TOKENS = 400
QUESTION_TOKENS = 60
ANSWER_TOKENS = 16

STRANGERS = 18
STRANGER_TOKENS = 400


class Played(NamedTuple):
    ttft_seconds: float
    """The mean."""
    hit_rate: float
    """Tokens of prompts that were there already ÷ all."""


def measure() -> str:
    with servers.installation() as ours:
        _deploy(ours)
        talks: dict[str, list[Played]] = {"round_robin": [], "least_loaded": [], "cache_aware": []}
        news: dict[str, list[Played]] = {"least_loaded": [], "cache_aware": []}
        for round in range(ROUNDS):
            for number, strategy in enumerate(talks):
                _choose(ours, strategy)
                talks[strategy].append(_conversations(ours.url, seed=100 * round + 10 * number))
        for round in range(ROUNDS + 1):
            for number, strategy in enumerate(news):
                _choose(ours, strategy)
                news[strategy].append(_strangers(ours.url, seed=10_000 + 1000 * round + 100 * number))
    return f"{_talks_table(talks)}\n\n{_news_table(news)}"


# --- The traces ------------------------------------------------------------------------------------------------------


def _conversations(url: str, *, seed: int) -> Played:
    """Every turn says all that was said before. Who comes next is drawn anew each turn: no rhythm of the arrivals makes
    a strategy that goes round meet the same conversation at the same model."""
    draw = random.Random(seed)
    talks: list[Messages] = [
        [_says("user", f"{words(1000 * seed + index, HEAD_TOKENS)} What is this about?")]
        for index in range(CONVERSATIONS)
    ]
    answers: list[Answer] = []
    for number in range(TURNS):
        draw.shuffle(talks)
        heard = _play(url, talks)
        # The first turn is cold for everybody: nothing can be found again.
        answers += heard if number else []
        for index, (talk, answer) in enumerate(zip(talks, heard, strict=True)):
            question = words(1000 * seed + 100 * (number + 1) + index, QUESTION_TOKENS)
            talk += [_says("assistant", answer.text), _says("user", question)]
    return _played(answers)


def _strangers(url: str, *, seed: int) -> Played:
    return _played(_play(url, [[_says("user", words(seed + index, STRANGER_TOKENS))] for index in range(STRANGERS)]))


def _play(url: str, talks: Sequence[Messages]) -> list[Answer]:
    turns = [Turn(messages=messages, max_tokens=ANSWER_TOKENS) for messages in talks]
    return answers_to(url, turns, at_once=AT_ONCE, model="auto")


def _played(answers: Sequence[Answer]) -> Played:
    return Played(
        statistics.mean(answer.ttft_seconds for answer in answers),
        sum(answer.cached_tokens for answer in answers) / sum(answer.prompt_tokens for answer in answers),
    )


def _says(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# --- The installation ------------------------------------------------------------------------------------------------


def _deploy(ours: Installation) -> None:
    for name in MODELS:
        shutil.copy(starter_model(), ours.models_dir / f"{name}.gguf")
    wait_until(lambda: all(ours.get(f"/v1/models/{name}")[0] == 200 for name in MODELS), 60.0)
    for name in MODELS:
        answers_to(ours.url, [Turn(messages=[_says("user", "Hello")], max_tokens=1)], at_once=1, model=name)


def _choose(ours: Installation, strategy: str) -> None:
    """Gateways follow within a second."""
    status, said = ours.post("/routing/config", {"strategy": strategy, "candidates": list(MODELS)})
    assert status == 200, said
    ask = {"model": "auto", "messages": [_says("user", "Hello")]}
    wait_until(lambda: ours.post("/routing/explain", ask)[1]["strategy"] == strategy, 10.0)


# --- The tables ------------------------------------------------------------------------------------------------------


def _talks_table(talks: dict[str, list[Played]]) -> str:
    base = talks["round_robin"]
    rows = []
    for strategy, played in talks.items():
        ratio = statistics.median(
            one.ttft_seconds / other.ttft_seconds for one, other in zip(played, base, strict=True)
        )
        rate = statistics.median(each.hit_rate for each in played)
        ttft = statistics.median(each.ttft_seconds for each in played) * 1000
        rows.append(f"| `{strategy}` | {ttft:,.0f} | {ratio:.2f} | {rate:.0%} |")
    return "\n".join(
        [
            f"{CONVERSATIONS} conversations of {TURNS} turns, {AT_ONCE} requests at a time, {len(MODELS)} models "
            "(the same file, a worker each); turns from the second on:\n",
            "| strategy | mean time to first token, ms | × `round_robin` | hit rate |",
            "| --- | ---: | ---: | ---: |",
            *rows,
            "\nBars for `cache_aware`: ≤ 0.70 ×, hit rate ≥ 1.15 × that of `round_robin`.",
        ]
    )


def _news_table(news: dict[str, list[Played]]) -> str:
    ratio = _ratio(news["cache_aware"], news["least_loaded"])
    least, aware = (statistics.median(each.ttft_seconds for each in played) * 1000 for played in news.values())
    return (
        f"{STRANGERS} prompts of {STRANGER_TOKENS} tokens that nobody has seen before: mean time to first token with "
        f"`cache_aware` {aware:,.0f} ms, with `least_loaded` {least:,.0f} ms, {ratio:.2f} × (bar: ≤ 1.05)."
    )


def _ratio(played: Sequence[Played], others: Sequence[Played]) -> float:
    """Of what was played at about the same time."""
    return statistics.median(one.ttft_seconds / other.ttft_seconds for one, other in zip(played, others, strict=True))
