"""What was seen before: conversations, a crash between two turns, a prompt that many share; a worker's memory."""

import os
import statistics
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from tests.bench import cost, servers
from tests.bench.cache_state import wait_kept, wait_written
from tests.bench.client import SHORT_PROMPT_TOKENS
from tests.bench.prompts import words
from tests.bench.throughput import Workload, run, starter_model
from tests.bench.turns import Turn, answers_to
from tests.installation import Installation

Messages = list[dict[str, str]]

CONVERSATIONS = 32
AT_ONCE = 4
HEAD_TOKENS = 400
ANSWER_TOKENS = 32
USERS = 50
SHARED_TOKENS = 2000
CACHE_MB = 8192
_SHARED_ANSWER_TOKENS = 8
SLOT_TOKENS = 4096
LONG_PROMPT_TOKENS = 4000
KV_BYTES_A_TOKEN = 23_040
"""Of SmolLM2-135M: 30 layers × (K + V) × 3 heads × 64 × 2 bytes."""


def measure() -> str:
    return "\n\n".join([_interference(), _conversations(), _shared_prompt(), cost.measure(), _memory()])


# --- A long prompt beside running streams ----------------------------------------------------------------------------


def _interference() -> str:
    running = [
        Turn(messages=_user(f"Tell story {index} about {words(index, 20)}"), max_tokens=400) for index in range(4)
    ]
    turns = [*running, Turn(messages=_user(words(77, LONG_PROMPT_TOKENS)), max_tokens=2, after_tokens=16)]
    rows = []
    with servers.installation() as ours, _llama_server(8, 5120, cache_mb=0) as theirs:
        _load(ours.url, theirs)
        for url in (ours.url, theirs):
            answers = answers_to(url, turns, at_once=5)
            rows.append((max(answer.longest_gap_seconds for answer in answers[:4]), answers[4]))
    (our_gap, our_long), (their_gap, their_long) = rows
    return "\n".join(
        [
            f"A prompt of {our_long.prompt_tokens} tokens arrives beside 4 running streams:\n",
            "| | ours, s | llama-server, s | ratio | bar |",
            "| --- | ---: | ---: | ---: | ---: |",
            f"| longest gap between two tokens of the 4 | {our_gap:.2f} | {their_gap:.2f} | {our_gap / their_gap:.2f} "
            "| ≤ 0.12 |",
            f"| that prompt's first token | {our_long.ttft_seconds:.1f} | {their_long.ttft_seconds:.1f} "
            f"| {our_long.ttft_seconds / their_long.ttft_seconds:.2f} | ≤ 1.5 |",
        ]
    )


# --- Conversations ---------------------------------------------------------------------------------------------------


class _Conversations:
    """The same conversations with one server: every turn says what the server answered before."""

    def __init__(self) -> None:
        self._messages: list[Messages] = [
            _user(f"{words(1000 + index, HEAD_TOKENS)} What is this about?") for index in range(CONVERSATIONS)
        ]

    def turn(self, url: str, number: int) -> float:
        """Everybody's next turn; the mean time to the first token."""
        if number > 1:
            for index, messages in enumerate(self._messages):
                messages.append({"role": "user", "content": f"And then? This is question {number} of {index}."})
        turns = [Turn(messages=messages, max_tokens=ANSWER_TOKENS) for messages in self._messages]
        answers = answers_to(url, turns, at_once=AT_ONCE)
        for messages, answer in zip(self._messages, answers, strict=True):
            messages.append({"role": "assistant", "content": answer.text})
        return statistics.mean(answer.ttft_seconds for answer in answers)


def _conversations() -> str:
    our_talk, their_talk = _Conversations(), _Conversations()
    with servers.installation() as ours:
        with _llama_server(AT_ONCE, SLOT_TOKENS, CACHE_MB) as theirs:
            _load(ours.url, theirs)
            turns = [(our_talk.turn(ours.url, number), their_talk.turn(theirs, number)) for number in (1, 2)]
            wait_written(ours, 1 + 2 * CONVERSATIONS)
        ours.process.kill()
        ours.wait_exit()
        ours.wait_gone()
        ours.start()
        ours.wait_started()
        with _llama_server(AT_ONCE, SLOT_TOKENS, CACHE_MB) as restarted:
            _load(ours.url, restarted)
            turns.append((our_talk.turn(ours.url, 3), their_talk.turn(restarted, 3)))
    bars = ("", "≤ 1.0", "≤ 0.15")
    names = ("1 (cold)", "2", "3, after `kill -9` and a restart")
    rows = [
        f"| {name} | {our * 1000:.0f} | {their * 1000:.0f} | {our / their:.2f} | {bar} |"
        for name, (our, their), bar in zip(names, turns, bars, strict=True)
    ]
    return "\n".join(
        [
            f"{CONVERSATIONS} conversations with heads of about {HEAD_TOKENS} tokens, {AT_ONCE} at a time; "
            "llama-server with its prompt cache in RAM; mean time to the first token:\n",
            "| turn | ours, ms | llama-server, ms | ratio | bar |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
        ]
    )


# --- A prompt that many share ----------------------------------------------------------------------------------------


def _shared_prompt() -> str:
    system = {"role": "system", "content": words(5, SHARED_TOKENS)}
    with servers.installation() as ours:
        made = ours.command("keys", "create", "--role", "admin", "--name", "bench").stdout
        admin = next(word for word in made.split() if word.startswith("nok_"))
        _post(ours, admin, "/api/v1/shared-prompts", {"name": "bench", "text": system["content"]})
        keys = [_user_key(ours, admin, index) for index in range(USERS)]
        answers_to(ours.url, [Turn(messages=_user("Hello"), max_tokens=1, key=keys[0])], at_once=1)  # loads the model
        before = wait_kept(ours, 1)["ram"]["held_bytes"]
        turns = [
            Turn(
                messages=[system, *_user(f"I am user {index}. {words(index, 20)}")],
                max_tokens=_SHARED_ANSWER_TOKENS,
                key=key,
            )
            for index, key in enumerate(keys)
        ]
        answers = answers_to(ours.url, turns, at_once=1)
        held = wait_kept(ours, 1 + USERS)["ram"]["held_bytes"] - before
    one_copy = (answers[0].prompt_tokens + _SHARED_ANSWER_TOKENS) * KV_BYTES_A_TOKEN
    tails = sum(
        (answer.prompt_tokens + _SHARED_ANSWER_TOKENS - answer.cached_tokens) * KV_BYTES_A_TOKEN
        for answer in answers[1:]
    )
    others = statistics.mean(answer.ttft_seconds for answer in answers[1:])
    first = answers[0].ttft_seconds
    return "\n".join(
        [
            f"{USERS} tenants share a declared system prompt ({answers[0].prompt_tokens} tokens with the question):\n",
            "| | measured | against | ratio | bar |",
            "| --- | ---: | ---: | ---: | ---: |",
            f"| cache, MB | {held / 1e6:.0f} | one copy + tails: {(one_copy + tails) / 1e6:.0f} "
            f"| {held / (one_copy + tails):.2f} | ≤ 1.2 |",
            f"| the same for everyone alone, MB | {USERS * one_copy / 1e6:.0f} | | | |",
            f"| first token of users 2–{USERS}, ms | {others * 1000:.0f} | user 1: {first * 1000:.0f} "
            f"| {others / first:.3f} | ≤ 0.1 |",
        ]
    )


def _user_key(ours: Installation, admin: str, index: int) -> str:
    tenant = f"user-{index}"
    _post(ours, admin, "/api/v1/tenants", {"name": tenant})
    return str(_post(ours, admin, "/api/v1/keys", {"tenant": tenant, "role": "inference", "name": "bench"})["secret"])


def _post(ours: Installation, key: str, path: str, body: object) -> Any:
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(ours.url + path, data=msgspec.json.encode(body), headers=headers)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return msgspec.json.decode(answer.read())


# --- Memory ----------------------------------------------------------------------------------------------------------


def _memory() -> str:
    """What an idle worker has resident beside the mapped weights and its KV cells."""
    with servers.installation() as ours:
        run(ours.url, Workload(1, SHORT_PROMPT_TOKENS, 1), 0, tokens=8)
        pid = ours.child("engine")
        weights, everything = _resident(pid, starter_model())
        kv = 16 * 1024 * KV_BYTES_A_TOKEN
        cached = wait_kept(ours, 1)["ram"]["held_bytes"]
    beyond = everything - weights - kv - cached
    return (
        f"An idle worker's resident memory beyond weights ({weights / 1e6:.0f} MB) and KV ({kv / 1e6:.0f} MB in cells, "
        f"{cached / 1e6:.0f} MB cached): {beyond / 1e6:.0f} MB (bar: ≤ 110)."
    )


def _resident(pid: int, model: Path) -> tuple[int, int]:
    """Bytes of the model's file, and of all, that are in the process's memory."""
    weights = everything = 0
    mapped = ""
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        field, *values = line.split()
        if not field.endswith(":"):
            mapped = values[-1] if len(values) == 5 else ""
        elif field == "Rss:":
            everything += int(values[0]) * 1024
            weights += int(values[0]) * 1024 if mapped.endswith(model.name) else 0
    return weights, everything


# --- Shared ----------------------------------------------------------------------------------------------------------


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _load(*urls: str) -> None:
    for url in urls:
        answers_to(url, [Turn(messages=_user("Hello"), max_tokens=1)], at_once=1)


@contextmanager
def _llama_server(slots: int, slot_tokens: int, cache_mb: int) -> Iterator[str]:
    threads = len(os.sched_getaffinity(0))
    tokens = slots * slot_tokens
    with servers.llama_server(
        starter_model(), threads=threads, slots=slots, context_tokens=tokens, cache_mb=cache_mb
    ) as url:
        yield url
