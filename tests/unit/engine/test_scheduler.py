"""The scheduler, driven by hand: sequences in, steps out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.scheduler import Limits, Pool, Scheduler, Sequence, Step

LIMITS = Limits(lanes=2, lane_tokens=8, long_slots=2, long_tokens=32, batch_tokens=16, prefill_beside_decode=4)


def sequence(key: str, prompt: int, limit: int) -> Sequence:
    return Sequence(key=key, tokens=list(range(prompt)), limit=limit)


def counts(step: Step, pool: Pool = Pool.LANES) -> dict[str, int]:
    return {str(chunk.sequence.key): chunk.count for chunk in step.chunks[pool]}


def run(scheduler: Scheduler) -> Step:
    """Plan a step and pretend that it was computed: every sequence with output gets one more token, or ends."""
    step = scheduler.plan()
    for chunks in step.chunks.values():
        for chunk in list(chunks):
            wants_output = chunk.wants_output
            chunk.sequence.computed += chunk.count
            if wants_output:
                chunk.sequence.tokens.append(0)
                if len(chunk.sequence.tokens) >= chunk.sequence.limit:
                    scheduler.remove(chunk.sequence)
    return step


def test_a_prompt_alone_is_computed_in_one_chunk() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.add(sequence("a", 7, 8))
    assert counts(run(scheduler)) == {"a": 7}


def test_prompts_that_arrive_together_share_a_step() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.add(sequence("a", 7, 8))
    scheduler.add(sequence("b", 6, 8))
    assert counts(run(scheduler)) == {"a": 7, "b": 6}


def test_a_prompt_is_cut_into_small_chunks_while_another_sequence_decodes() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.add(sequence("a", 2, 8))
    run(scheduler)
    scheduler.add(sequence("b", 7, 20))
    assert counts(run(scheduler)) == {"a": 1, "b": 4}
    assert counts(run(scheduler)) == {"a": 1, "b": 3}
    assert counts(run(scheduler)) == {"a": 1, "b": 1}


def test_sequences_beyond_the_lanes_wait_and_are_admitted_in_order() -> None:
    scheduler = Scheduler(LIMITS)
    for key in "abcd":
        scheduler.add(sequence(key, 2, 3))
    assert counts(run(scheduler)) == {"a": 2, "b": 2}
    assert counts(run(scheduler)) == {"c": 2, "d": 2}
    assert scheduler.running == scheduler.waiting == 0


def test_a_prompt_longer_than_a_lane_goes_to_the_long_pool() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.add(sequence("a", 9, 12))
    assert counts(run(scheduler), Pool.LONG) == {"a": 9}


def test_a_long_prompt_that_must_wait_does_not_hold_up_a_short_one() -> None:
    scheduler = Scheduler(LIMITS)
    scheduler.add(sequence("a", 9, 30))
    scheduler.add(sequence("b", 9, 30))
    scheduler.add(sequence("c", 2, 8))
    step = run(scheduler)
    assert counts(step, Pool.LONG) == {"a": 9}
    assert counts(step) == {"c": 2}


def test_a_short_long_prompt_does_not_overtake_a_longer_one_that_waits() -> None:
    scheduler = Scheduler(LIMITS)
    for key, limit in (("a", 30), ("b", 30), ("c", 10)):
        scheduler.add(sequence(key, 9, limit))
    assert counts(run(scheduler), Pool.LONG) == {"a": 9}
    assert counts(run(scheduler), Pool.LONG) == {"a": 1}


def test_a_sequence_that_fills_its_lane_moves_to_the_long_pool() -> None:
    scheduler = Scheduler(LIMITS)
    one = sequence("a", 7, 12)
    scheduler.add(one)
    run(scheduler)
    run(scheduler)
    assert one.computed == LIMITS.lane_tokens
    step = run(scheduler)
    assert [(move.sequence, move.lane) for move in step.moves] == [(one, 0)]
    assert counts(step, Pool.LONG) == {"a": 1}


def test_a_sequence_that_can_not_move_waits_in_its_lane_until_it_can() -> None:
    scheduler = Scheduler(LIMITS)
    big = sequence("big", 9, 32)
    scheduler.add(big)
    run(scheduler)
    scheduler.add(sequence("a", 8, 12))
    run(scheduler)
    run(scheduler)
    step = run(scheduler)
    assert not step.moves and counts(step) == {}
    scheduler.remove(big)
    assert len(run(scheduler).moves) == 1


def test_a_batch_lists_sequences_by_ascending_slots_whatever_order_they_came_and_went_in() -> None:
    scheduler = Scheduler(Limits(lanes=4, lane_tokens=8, long_slots=0, long_tokens=0))
    early = [sequence(key, 2, 8) for key in "abcd"]
    for each in early:
        scheduler.add(each)
    run(scheduler)
    scheduler.remove(early[2])
    scheduler.remove(early[0])
    for key in "ef":
        scheduler.add(sequence(key, 2, 8))
    step = run(scheduler)
    assert [(chunk.sequence.key, chunk.sequence.slot) for chunk in step.chunks[Pool.LANES]] == [
        ("e", 0),
        ("b", 1),
        ("f", 2),
        ("d", 3),
    ]


def test_a_sequence_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="fits nowhere"):
        Scheduler(LIMITS).add(sequence("a", 9, 33))


def test_a_waiting_sequence_can_be_removed() -> None:
    scheduler = Scheduler(LIMITS)
    one = sequence("a", 2, 3)
    scheduler.add(one)
    scheduler.remove(one)
    assert scheduler.waiting == 0 and not scheduler.plan().chunks[Pool.LANES]


@given(
    st.lists(
        st.tuples(st.integers(1, 31), st.integers(1, 31), st.integers(0, 5)).filter(lambda case: case[0] < 32),
        min_size=1,
        max_size=30,
    )
)
def test_whatever_arrives_everything_ends_and_no_bound_is_passed(cases: list[tuple[int, int, int]]) -> None:
    """Arrivals spread over steps; at each step cells, slots and the batch stay within their limits."""
    scheduler = Scheduler(LIMITS)
    arrivals = sorted(
        (
            (step, sequence(str(number), prompt, min(32, prompt + more)))
            for number, (prompt, more, step) in enumerate(cases)
        ),
        key=lambda arrival: arrival[0],
    )
    total = sum(each.limit for _, each in arrivals)
    now = 0
    while arrivals or scheduler.running or scheduler.waiting:
        while arrivals and arrivals[0][0] <= now:
            scheduler.add(arrivals.pop(0)[1])
        step = run(scheduler)
        chunks = [chunk for pool in step.chunks.values() for chunk in pool]
        assert sum(chunk.count for chunk in chunks) <= LIMITS.batch_tokens
        for pool, slots in ((Pool.LANES, LIMITS.lanes), (Pool.LONG, LIMITS.long_slots)):
            used = [chunk.sequence.slot for chunk in step.chunks[pool]]
            assert len(set(used)) == len(used) <= slots
        assert all(chunk.sequence.computed <= LIMITS.lane_tokens for chunk in step.chunks[Pool.LANES])
        now += 1
        # Each step computes at least one token unless nothing has arrived yet, so the end is in sight.
        assert chunks or not scheduler.running
        assert now <= total + 10
