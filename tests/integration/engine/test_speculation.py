"""Guessed tokens on the real model: fewer steps, and never a token that the model itself would not choose."""

import queue
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from inference.engine.engine import Engine
from inference.engine.jobs import AnyJob, Choice, Job
from inference.engine.llama import Context, Model, silence_native_log
from inference.engine.scheduler import Scheduler
from inference.engine.sequences import Limits
from inference.engine.sequences import Sequence as Tokens
from inference.protocol import (
    CacheBudget,
    EngineParameters,
    Finished,
    Generate,
    Partition,
    Sampling,
    WorkerToGateway,
)

LIMITS = Limits(lanes=4, lane_tokens=256, long_slots=2, long_tokens=1024)
ALICE = Partition(name="alice", key=b"a" * 32)
REPEATING = "one two three four five six seven eight nine ten\n" * 4
PLAIN = "The capital of France is"
ROUNDING = 0.8
"""Batches of other shapes give logits that differ by so much at most."""


@pytest.fixture(scope="module", params=[None, "unified"])
def model(request: pytest.FixtureRequest, smollm2: Path) -> Model:
    silence_native_log(lambda level, text: None, verbose=False)
    parameters = EngineParameters(unified=request.param == "unified", draft_cost=0.3)
    return Model([str(smollm2)], lambda _: None, parameters)


class Rig:
    """An engine, and the size of each batch that it has computed."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.model = model
        self.batches: list[int] = []
        self._messages: queue.SimpleQueue[tuple[AnyJob | None, WorkerToGateway]] = queue.SimpleQueue()
        decode = Context.decode

        def counted(context: Context, tokens: Sequence[int], *rest: Any) -> None:
            self.batches.append(len(tokens))
            decode(context, tokens, *rest)

        monkeypatch.setattr(Context, "decode", counted)
        self._chosen: dict[object, list[int]] = {}
        generated = Scheduler.generated

        def noted(scheduler: Scheduler, sequence: Tokens, token: int) -> None:
            assert isinstance(sequence.key, Choice)
            self._chosen.setdefault(sequence.key.job, []).append(token)
            generated(scheduler, sequence, token)

        # A text does not tell its tokens: those that end a turn stand for nothing.
        monkeypatch.setattr(Scheduler, "generated", noted)
        self.engine = Engine(model, LIMITS, 2, self._emit)
        self.engine.start()
        self.engine.set_cache_budget(CacheBudget(ram_bytes=64 << 20, ssd_bytes=0))

    def _emit(self, messages: list[tuple[AnyJob | None, WorkerToGateway]]) -> None:
        for message in messages:
            self._messages.put(message)

    def answers(self, *prompts: str, tokens: int, **options: Any) -> list[tuple[list[int], Finished]]:
        """The tokens of each."""
        self.batches.clear()
        jobs = []
        for number, prompt in enumerate(prompts):
            known = self.model.tokenize(prompt, add_special=True)
            sampling = options.get("sampling", Sampling(temperature=0.0))
            request = Generate(
                id=number, request_id="r", text=prompt, sampling=sampling, partition=ALICE, ignore_eos=True
            )
            jobs.append(Job(peer=0, request=request, tokens=known, limit=len(known) + tokens))
        for job in jobs:
            self.engine.submit(job)
        finished: dict[AnyJob, Finished] = {}
        while len(finished) < len(jobs):
            done, message = self._messages.get(timeout=60)
            if isinstance(message, Finished):
                assert done is not None
                finished[done] = message
        return [(self._chosen[job], finished[job]) for job in jobs]


@pytest.fixture
def rig(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    made = Rig(model, monkeypatch)
    yield made
    made.engine.stop()


Judge = Callable[[str, list[int]], float]


@pytest.fixture
def worst(model: Model) -> Iterator[Judge]:
    """By how much the model prefers another token to one of an answer, at most, where it computes all at once."""
    context = model.create_context(tokens=1024, sequences=1, unified=True, batch_tokens=256, threads=2)

    def judge(prompt: str, answer: list[int]) -> float:
        context.forget_all()
        known = model.tokenize(prompt, add_special=True)
        tokens = known + answer
        differences = []
        for start in range(0, len(tokens) - 1, 256):
            positions = range(start, min(start + 256, len(tokens) - 1))
            count = len(positions)
            context.decode(tokens[start : start + count], positions, [0] * count, range(count))
            for position, row in zip(positions, context.logits(count), strict=True):
                if position >= len(known) - 1:
                    differences.append(float(row.max() - row[tokens[position + 1]]))
        return max(differences)

    yield judge
    context.close()


def test_text_that_repeats_itself_takes_far_fewer_steps(rig: Rig, worst: Judge) -> None:
    ((answer, finished),) = rig.answers(REPEATING, tokens=100)
    assert finished.completion_tokens == 100
    assert len(rig.batches) < 60
    assert max(rig.batches[1:]) > 4
    assert worst(REPEATING, answer) < ROUNDING


def test_text_that_does_not_repeat_itself_takes_a_step_a_token(rig: Rig, worst: Judge) -> None:
    ((answer, _),) = rig.answers(PLAIN, tokens=12)
    assert rig.batches[1:] == [1] * 11
    assert worst(PLAIN, answer) < ROUNDING


def test_sequences_side_by_side_are_guessed_together(rig: Rig, worst: Judge) -> None:
    other = "red green blue yellow black white brown pink\n" * 4
    answers = rig.answers(REPEATING, other, tokens=80)
    assert len(rig.batches) < 120
    for prompt, (answer, finished) in zip((REPEATING, other), answers, strict=True):
        assert finished.completion_tokens == 80
        assert worst(prompt, answer) < ROUNDING


def test_a_lane_filled_by_guesses_moves_to_the_long_context_and_goes_on(rig: Rig, worst: Judge) -> None:
    """It outgrows its 256 cells amid guesses."""
    ((answer, finished),) = rig.answers(REPEATING, tokens=300)
    assert finished.completion_tokens == 300
    assert worst(REPEATING, answer) < ROUNDING


def test_what_is_kept_of_an_answer_holds_no_wrong_guess(rig: Rig, worst: Judge) -> None:
    """The conversation's next turn goes on from the KV of the last one."""
    ((first, _),) = rig.answers(REPEATING, tokens=70)
    prompt = REPEATING + "".join(rig.model.piece(token).decode() for token in first) + "\nAnd now: a b c d"
    ((second, finished),) = rig.answers(prompt, tokens=30)
    assert finished.cached_tokens >= len(rig.model.tokenize(REPEATING, add_special=True)) + 60
    assert worst(prompt, second) < ROUNDING


def test_a_seed_draws_the_same_tokens_with_guesses_as_it_did_before(rig: Rig) -> None:
    sampling = Sampling(temperature=0.7, seed=5)
    first, second = (rig.answers(REPEATING, tokens=60, sampling=sampling)[0][0] for _ in range(2))
    assert first == second


def test_stop_and_limit_hold_amid_guesses(rig: Rig) -> None:
    for tokens in (20, 25, 31):
        ((_, finished),) = rig.answers(REPEATING, tokens=tokens)
        assert finished.completion_tokens == tokens
