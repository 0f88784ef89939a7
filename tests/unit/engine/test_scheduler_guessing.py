"""The scheduler's guesses: when a step computes some, and how many."""

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.scheduler import Batch, Scheduler
from inference.engine.sequences import Limits, Pool, Sequence
from inference.engine.speculation import MOST_DRAFT_TOKENS
from tests.unit.engine.scheduling import LIMITS, sequence


def looping(scheduler: Scheduler, *sequences: Sequence, steps: int = 30) -> Batch:
    """The batch after each sequence's answer has repeated itself for long."""
    for each in sequences:
        scheduler.add(each)
    for number in range(steps):
        scheduler.admit(0.0)
        for chunks in scheduler.batch().values():
            for chunk in chunks:
                chunk.sequence.computed += chunk.count
                if not chunk.sequence.pending:
                    scheduler.generated(chunk.sequence, number % 3)
    scheduler.admit(0.0)
    return scheduler.batch()


def guesses(batch: Batch) -> dict[object, int]:
    return {chunk.sequence.key: len(chunk.guesses) for chunks in batch.values() for chunk in chunks}


def test_an_answer_that_repeats_itself_is_guessed() -> None:
    batch = looping(Scheduler(LIMITS, draft_cost=0.3), sequence(10, 100))
    (chunk,) = batch[Pool.LANES]
    assert chunk.guesses[:4] == (0, 1, 2, 0)
    assert chunk.wants_output


def test_nothing_is_guessed_unless_that_is_told_to_pay() -> None:
    assert guesses(looping(Scheduler(LIMITS), sequence(10, 100))) == {"s": 0}


def test_sequences_of_one_pool_get_equally_many_guesses() -> None:
    scheduler = Scheduler(LIMITS, draft_cost=0.1)
    batch = looping(scheduler, sequence(10, 100, name="a"), sequence(10, 34, name="b"))
    assert guesses(batch) == {"a": 3, "b": 3}  # b may generate four more, the last of which needs no guess


def test_nobody_guesses_while_a_prompt_is_computed() -> None:
    scheduler = Scheduler(LIMITS, draft_cost=0.3)
    looping(scheduler, sequence(10, 100, name="a"))
    scheduler.add(sequence(200, name="b"))
    scheduler.admit(0.0)
    assert guesses(scheduler.batch()) == {"a": 0, "b": 0}


@given(prompts=st.lists(st.integers(1, 400), min_size=1, max_size=4), cost=st.floats(0.01, 0.5))
@settings(deadline=None)
def test_guesses_never_outgrow_cells_limits_or_the_batch(prompts: list[int], cost: float) -> None:
    limits = Limits(lanes=2, lane_tokens=128, long_slots=2, long_tokens=512, batch_tokens=256)
    scheduler = Scheduler(limits, draft_cost=cost)
    for number, prompt in enumerate(prompts):
        scheduler.add(sequence(prompt, min(100, 512 - prompt), name=str(number)))
    for number in range(60):
        admission = scheduler.admit(0.0)
        del admission
        for pool, chunks in scheduler.batch().items():
            assert sum(chunk.count + len(chunk.guesses) for chunk in chunks) <= limits.batch_tokens
            cells = [len(chunk.sequence.tokens) + len(chunk.guesses) for chunk in chunks]
            assert sum(cells) <= limits.long_tokens if pool is Pool.LONG else all(each <= 128 for each in cells)
            for chunk in chunks:
                assert len(chunk.guesses) <= MOST_DRAFT_TOKENS
                assert len(chunk.sequence.tokens) + len(chunk.guesses) < chunk.sequence.limit or not chunk.guesses
                chunk.sequence.computed += chunk.count
                if not chunk.sequence.pending:
                    scheduler.generated(chunk.sequence, number % 2)
                    if len(chunk.sequence.tokens) >= chunk.sequence.limit:
                        scheduler.remove(chunk.sequence)


def test_where_one_of_a_pool_has_nothing_to_guess_nobody_guesses() -> None:
    scheduler = Scheduler(LIMITS, draft_cost=0.1)
    new = sequence(10, 100, name="b")
    looping(scheduler, sequence(10, 100, name="a"), new)
    scheduler.generated(new, 999)  # what it never had before: nothing is known to follow
    new.computed += 1
    assert guesses(scheduler.batch()) == {"a": 0, "b": 0}
