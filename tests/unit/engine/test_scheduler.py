"""The scheduler, driven by hand: what it is told, and what it then wants done."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engine.cache.names import BLOCK_TOKENS
from inference.engine.scheduler import Scheduler
from inference.engine.sequences import Limits, Pool, Sequence
from inference.engine.turns import AGING_SECONDS, AHEAD_TOKENS, SEVERAL_SECONDS
from tests.unit.engine.scheduling import LIMITS, added, counts, sequence, step

# --- Computing -------------------------------------------------------------------------------------------------------


def test_a_prompt_alone_is_computed_in_one_chunk() -> None:
    _, batch = step(added(Scheduler(LIMITS), sequence(200)))
    assert counts(batch) == {"s": 200}
    assert all(not chunk.sequence.pending - 1 for chunk in batch[Pool.LANES])


def test_prompts_that_arrive_together_share_a_step() -> None:
    _, batch = step(added(Scheduler(LIMITS), sequence(40, name="a"), sequence(50, name="b")))
    assert counts(batch) == {"a": 40, "b": 50}


def test_a_prompt_is_cut_into_blocks_while_another_sequence_decodes() -> None:
    scheduler = added(Scheduler(LIMITS), sequence(10, name="decoding"))
    step(scheduler)
    scheduler.add(sequence(200, name="prompt"))
    seen = [counts(step(scheduler)[1]) for _ in range(4)]
    assert [each["prompt"] for each in seen] == [64, 64, 64, 8]
    assert all(each["decoding"] == 1 for each in seen)


def test_what_was_restored_is_not_computed_and_chunks_go_on_at_the_blocks_borders() -> None:
    scheduler = added(Scheduler(LIMITS), sequence(10, name="decoding"))
    step(scheduler)
    restored = sequence(200, name="prompt")
    scheduler.add(restored)
    scheduler.admit(0)
    restored.computed = 100
    assert counts(scheduler.batch()) == {"decoding": 1, "prompt": 128 - 100}


def test_prompts_that_come_while_another_sequence_decodes_get_a_block_each() -> None:
    limits = Limits(lanes=8, lane_tokens=256, long_slots=1, long_tokens=0, batch_tokens=256)
    scheduler = added(Scheduler(limits), sequence(10, name="decoding"))
    step(scheduler)
    added(scheduler, *(sequence(100, name=name) for name in "abcde"))
    seen = counts(step(scheduler)[1])
    assert seen["decoding"] == 1
    assert sum(count >= BLOCK_TOKENS for count in seen.values()) == 3
    assert sum(seen.values()) <= limits.batch_tokens


def test_a_prompt_comes_along_beside_as_many_sequences_as_there_can_be() -> None:
    limits = Limits(lanes=64, lane_tokens=128, long_slots=8, long_tokens=4096, batch_tokens=128)
    others = [sequence(200 if number < 8 else 10, 100, name=str(number)) for number in range(8 + 63)]
    scheduler = added(Scheduler(limits), *others, sequence(100, name="prompt"))
    scheduler.admit(0)
    for other in others:
        other.computed = len(other.tokens) - 1
    assert counts(scheduler.batch())["prompt"] == 64


def test_of_many_prompts_few_are_computed_at_a_time_and_all_in_the_end() -> None:
    limits = Limits(lanes=8, lane_tokens=256, long_slots=1, long_tokens=0, batch_tokens=128)
    prompts = [sequence(128, name=name) for name in "abcdef"]
    scheduler = added(Scheduler(limits), *prompts)
    first = [counts(step(scheduler)[1]) for _ in range(2)]
    assert [set(each) for each in first] == [{"a", "b"}, {"a", "b"}]
    for _ in range(20):
        step(scheduler)
    assert all(len(each.tokens) > 128 for each in prompts)


def test_who_has_had_least_of_late_has_their_prompt_computed_first() -> None:
    limits = Limits(lanes=64, lane_tokens=512, long_slots=1, long_tokens=0, batch_tokens=256)
    flood = [sequence(300, name=f"flood{number}", tenant="flood") for number in range(40)]
    scheduler = added(Scheduler(limits), *flood)
    step(scheduler)
    added(scheduler, sequence(300, name="quiet", tenant="quiet"))
    seen = [counts(step(scheduler)[1]).get("quiet", 0) for _ in range(2)]
    assert seen == [256, 44]


def test_tenants_that_flood_alike_have_their_prompts_computed_alike_by_weight() -> None:
    limits = Limits(lanes=64, lane_tokens=512, long_slots=1, long_tokens=0, batch_tokens=256)
    scheduler = added(
        Scheduler(limits),
        *(sequence(500, name=f"light{number}", tenant="light") for number in range(20)),
        *(sequence(500, name=f"heavy{number}", tenant="heavy", weight=3.0) for number in range(20)),
    )
    for _ in range(3 * AHEAD_TOKENS // 256):  # who came last is ahead for so long
        step(scheduler)
    seen = [counts(step(scheduler)[1]) for _ in range(20)]
    tokens = sum(sum(each.values()) for each in seen)
    heavy = sum(count for each in seen for name, count in each.items() if str(name).startswith("heavy"))
    assert 0.7 <= heavy / tokens <= 0.8


def test_a_tenants_many_prompts_stall_only_its_own_answers() -> None:
    limits = Limits(lanes=16, lane_tokens=512, long_slots=1, long_tokens=0, batch_tokens=256)
    flood = [sequence(500, name=f"flood{number}", tenant="flood") for number in range(4)]
    for tenant, tokens in (("flood", 255), ("quiet", 64)):
        scheduler = added(Scheduler(limits), sequence(10, 50, name="decoding", tenant=tenant))
        step(scheduler)
        for each in flood:
            each.computed, each.pool = 0, None
        added(scheduler, *flood)
        seen = counts(step(scheduler)[1])
        assert seen.pop("decoding") == 1
        assert sum(seen.values()) <= tokens and sum(seen.values()) > tokens - BLOCK_TOKENS


def test_a_short_prompt_behind_a_long_one_takes_turns_with_it() -> None:
    scheduler = added(Scheduler(LIMITS), sequence(10, name="decoding"))
    step(scheduler)
    added(scheduler, sequence(900, 8, name="long"), sequence(30, name="short"))
    seen = [counts(step(scheduler)[1]) for _ in range(3)]
    assert any("short" in each for each in seen[:2])
    assert sum(each.get("long", 0) for each in seen) >= 2 * BLOCK_TOKENS


def test_a_batch_lists_sequences_by_ascending_slots_whatever_order_they_came_and_went_in() -> None:
    scheduler = Scheduler(Limits(lanes=4, lane_tokens=64, long_slots=1, long_tokens=0))
    first, second, third = (sequence(4, name=name) for name in "abc")
    added(scheduler, first, second, third)
    step(scheduler)
    scheduler.remove(first)
    scheduler.add(sequence(4, name="d"))
    step(scheduler)
    _, batch = step(scheduler)
    assert [chunk.sequence.key for chunk in batch[Pool.LANES]] == ["d", "b", "c"]
    assert [chunk.sequence.slot for chunk in batch[Pool.LANES]] == [0, 1, 2]


# --- Who holds cells -------------------------------------------------------------------------------------------------


def test_sequences_beyond_the_lanes_wait_and_are_admitted_in_order() -> None:
    first, second, third, fourth = (sequence(10, name=name, arrived=at) for at, name in enumerate("abcd"))
    scheduler = added(Scheduler(LIMITS), first, second, third, fourth)
    assert [each.key for each in scheduler.admit(0).placed] == ["a", "b"]
    scheduler.remove(first)
    assert [each.key for each in scheduler.admit(0).placed] == ["c"]
    assert (scheduler.running, scheduler.waiting) == (2, 1)


def test_a_prompt_longer_than_a_lane_goes_to_the_long_pool() -> None:
    admission, _ = step(added(Scheduler(LIMITS), sequence(300)))
    assert [each.pool for each in admission.placed] == [Pool.LONG]


def test_a_long_prompt_that_must_wait_does_not_hold_up_a_short_one() -> None:
    scheduler = added(Scheduler(LIMITS), sequence(900, name="a"), sequence(900, name="b"), sequence(10, name="c"))
    assert {each.key for each in scheduler.admit(0).placed} == {"a", "c"}


def test_a_shorter_long_prompt_does_not_overtake_a_longer_one_that_waits() -> None:
    scheduler = added(
        Scheduler(LIMITS),
        sequence(600, name="a", arrived=0),
        sequence(600, name="b", arrived=1),
        sequence(260, name="c", arrived=2),
    )
    assert [each.key for each in scheduler.admit(0).placed] == ["a"]


def test_an_answer_without_a_bound_does_not_keep_the_long_pool_for_itself() -> None:
    scheduler = added(Scheduler(LIMITS), sequence(300, 724, name="a"), sequence(300, 724, name="b"))
    assert {each.key for each in scheduler.admit(0).placed} == {"a", "b"}


def test_a_sequence_that_fills_its_lane_moves_to_the_long_pool() -> None:
    grown = sequence(250, 100)
    scheduler = added(Scheduler(LIMITS), grown)
    moves = [move for _ in range(10) for move in step(scheduler)[0].moved]
    assert [(move.sequence, move.lane) for move in moves] == [(grown, 0)]
    assert (grown.pool, grown.computed) == (Pool.LONG, 250 + 9)


def test_a_sequence_that_can_not_move_gives_its_lane_back_and_resumes_when_there_is_room() -> None:
    blocking, grown = sequence(950, 20, name="blocking"), sequence(255, 100, name="grown")
    scheduler = added(Scheduler(LIMITS), blocking, grown)
    step(scheduler)
    step(scheduler)
    admission, batch = step(scheduler)
    assert [(each.sequence, each.pool, each.computed) for each in admission.preempted] == [(grown, Pool.LANES, 256)]
    assert set(counts(batch)) == {"blocking"}
    scheduler.remove(blocking)
    assert [each.key for each in scheduler.admit(0).placed] == ["grown"]
    assert (grown.pool, grown.computed) == (Pool.LONG, 0)


def test_the_long_pool_makes_room_for_the_oldest_by_preempting_the_youngest() -> None:
    old, young = sequence(450, 500, name="old", arrived=0), sequence(440, 500, name="young", arrived=1)
    scheduler = added(Scheduler(LIMITS), old, young)
    preempted = [each for _ in range(100) for each in step(scheduler, 2)[0].preempted]
    assert [each.sequence for each in preempted] == [young]
    assert preempted[0].computed == len(young.tokens) - 1
    assert old.pool is Pool.LONG


def test_a_lower_priority_is_preempted_before_a_younger_one() -> None:
    low = sequence(450, 500, name="low", arrived=0, priority=1)
    high = sequence(440, 500, name="high", arrived=1, priority=9)
    scheduler = added(Scheduler(LIMITS), low, high)
    preempted = [each.sequence for _ in range(100) for each in step(scheduler, 2)[0].preempted]
    assert preempted == [low]


# --- Order -----------------------------------------------------------------------------------------------------------


def one_at_a_time(sequences: list[Sequence], now: float = 0.0, steps: int = 1) -> list[object]:
    """The order in which a scheduler with one lane places them, each leaving after ``steps`` tokens."""
    scheduler = added(Scheduler(Limits(lanes=1, lane_tokens=4096, long_slots=1, long_tokens=0)), *sequences)
    order = []
    while scheduler.waiting:
        placed = scheduler.admit(now).placed[0]
        order.append(placed.key)
        for _ in range(steps):
            step(scheduler, now)
        scheduler.remove(placed)
    return order


def test_a_higher_priority_comes_first() -> None:
    low, high = sequence(10, name="low", priority=2), sequence(10, name="high", priority=8, arrived=1)
    assert one_at_a_time([low, high]) == ["high", "low"]


def test_where_there_are_several_tenants_a_few_lanes_are_for_those_that_have_none() -> None:
    limits = Limits(lanes=32, lane_tokens=64, long_slots=1, long_tokens=0)
    scheduler = added(Scheduler(limits), visit := sequence(10, name="visit", tenant="b"))
    scheduler.admit(0)
    scheduler.remove(visit)
    added(scheduler, *(sequence(10, name=f"a{number}", tenant="a") for number in range(40)))
    assert len(scheduler.admit(0).placed) == 30
    added(scheduler, *(sequence(10, name=f"b{number}", tenant="b") for number in range(2)))
    assert [each.key for each in scheduler.admit(2).placed] == ["b0"]
    assert scheduler.admit(SEVERAL_SECONDS).placed == [], "the last one is for a third"
    assert len(scheduler.admit(SEVERAL_SECONDS + 3).placed) == 1, "nobody came anew for long"


def test_who_is_alone_has_all_lanes() -> None:
    limits = Limits(lanes=32, lane_tokens=64, long_slots=1, long_tokens=0)
    scheduler = added(Scheduler(limits), *(sequence(10, name=f"a{number}", tenant="a") for number in range(40)))
    assert len(scheduler.admit(0).placed) == 32


def test_waiting_raises_the_priority() -> None:
    old = sequence(10, name="old", priority=2, arrived=0)
    new = sequence(10, name="new", priority=8, arrived=7 * AGING_SECONDS)
    assert one_at_a_time([new, old], now=7 * AGING_SECONDS) == ["old", "new"]


def test_tenants_take_turns_however_many_requests_one_of_them_sends() -> None:
    many = [sequence(500, name=f"many{index}", tenant="many", arrived=index / 100) for index in range(8)]
    few = [sequence(500, name=f"few{index}", tenant="few", arrived=0.5 + index / 100) for index in range(2)]
    order = one_at_a_time(many + few)
    assert max(order.index("few0"), order.index("few1")) <= 4


def test_tenants_share_tokens_and_not_requests() -> None:
    """One sends prompts of 2,048 tokens, the other of 256: the second gets about eight for one of the first's."""
    long = [sequence(2048, name=f"long{index}", tenant="long", arrived=index / 100) for index in range(4)]
    short = [sequence(256, name=f"short{index}", tenant="short", arrived=index / 100) for index in range(32)]
    order = one_at_a_time(long + short)
    before_second_long = order.index("long1")
    assert 6 <= sum(str(name).startswith("short") for name in order[:before_second_long]) <= 18


def test_generated_tokens_are_charged_to_their_tenant() -> None:
    talkative = [sequence(10, 2000, name=f"t{index}", tenant="talkative", arrived=index / 100) for index in range(3)]
    terse = [sequence(10, 8, name=f"q{index}", tenant="terse", arrived=index / 100 + 0.001) for index in range(12)]
    order = one_at_a_time(talkative + terse, steps=600)
    assert order[0] == "t0"
    assert order.index("t1") > order.index("q0")


def test_what_waits_beyond_its_time_expires_and_what_has_begun_does_not() -> None:
    running, waiting = sequence(10, name="running", start_by=5.0), sequence(10, name="waiting", start_by=5.0)
    scheduler = added(Scheduler(Limits(lanes=1, lane_tokens=64, long_slots=1, long_tokens=0)), running, waiting)
    scheduler.admit(0)
    assert scheduler.admit(4.9).expired == []
    assert scheduler.admit(5.0).expired == [waiting]
    assert (scheduler.running, scheduler.waiting) == (1, 0)


# --- Bounds ----------------------------------------------------------------------------------------------------------


def test_a_sequence_that_fits_nowhere_is_refused() -> None:
    with pytest.raises(ValueError, match="fits nowhere"):
        Scheduler(LIMITS).add(sequence(1000, 100))


def test_what_expires_leaves_the_others_in_their_order() -> None:
    in_time = [sequence(10, name=f"in time {index}", arrived=index, start_by=99.0) for index in range(3)]
    late = [sequence(10, name=f"late {index}", arrived=index, start_by=5.0) for index in range(3)]
    scheduler = added(Scheduler(LIMITS), *(each for pair in zip(late, in_time, strict=True) for each in pair))
    admission = scheduler.admit(5.0)
    assert admission.expired == late
    assert admission.placed == in_time[: LIMITS.lanes]


def test_a_waiting_sequence_can_be_removed() -> None:
    waiting = sequence(10)
    scheduler = added(Scheduler(LIMITS), waiting)
    scheduler.remove(waiting)
    assert (scheduler.running, scheduler.waiting) == (0, 0)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 900), st.integers(1, 300), st.integers(0, 20), st.integers(0, 10), st.sampled_from("xy")
        ),
        max_size=12,
    )
)
def test_whatever_arrives_everything_ends_and_no_bound_is_passed(cases: list[tuple[int, int, int, int, str]]) -> None:
    """Prompts and answers of any length, arriving at any step: all get their tokens, no pool overflows."""
    sequences = [
        (
            at,
            sequence(
                prompt, min(completion, 1024 - prompt), name=str(index), priority=priority, tenant=tenant, arrived=at
            ),
        )
        for index, (prompt, completion, at, priority, tenant) in enumerate(cases)
    ]
    scheduler = Scheduler(LIMITS)
    pending = sorted(sequences, key=lambda each: each[0])
    now = 0
    while pending or scheduler.running or scheduler.waiting:
        while pending and pending[0][0] <= now:
            scheduler.add(pending.pop(0)[1])
        admission, batch = step(scheduler, now)
        running = [each for _, each in sequences if each.pool is not None]
        assert sum(each.computed for each in running if each.pool is Pool.LONG) <= LIMITS.long_tokens
        assert all(each.computed <= LIMITS.lane_tokens for each in running if each.pool is Pool.LANES)
        assert len({(each.pool, each.slot) for each in running}) == len(running)
        assert sum(counts(batch).values()) <= LIMITS.batch_tokens
        assert counts(batch) or not running, "somebody holds cells and nobody computes"
        assert not admission.preempted or all(each.sequence.computed == 0 for each in admission.preempted)
        for each in running:
            if len(each.tokens) >= each.limit:
                scheduler.remove(each)
                each.pool = None
        now += 1
        assert now < 20_000
    assert all(len(each.tokens) >= each.limit for _, each in sequences)


def test_a_prompt_is_cut_where_its_state_is_wanted_and_nowhere_else() -> None:
    scheduler = added(Scheduler(LIMITS), sequence(240, stops=(64, 192)))
    assert [counts(step(scheduler)[1])["s"] for _ in range(4)] == [64, 128, 48, 1]


def test_what_resumes_at_a_stop_goes_on_from_there() -> None:
    scheduler = added(Scheduler(LIMITS), resumed := sequence(240, stops=(64, 192)))
    scheduler.admit(0.0)
    resumed.computed = 64
    assert counts(scheduler.batch()) == {"s": 128}


def test_where_nothing_runs_nothing_is_held() -> None:
    assert not Scheduler(LIMITS).held
    assert not added(Scheduler(LIMITS), sequence(10)).held


def test_what_is_allowed_no_more_tokens_waits_in_its_cells_and_goes_on_when_it_is() -> None:
    bounded = sequence(10, completion=8, name="bounded", allowed=12)
    free = sequence(10, completion=8, name="free")
    scheduler = added(Scheduler(LIMITS), bounded, free)
    for _ in range(4):
        step(scheduler)
    assert [len(each.tokens) for each in (bounded, free)] == [12, 14]
    assert not scheduler.held
    scheduler.remove(free)
    assert scheduler.held and counts(step(scheduler)[1]) == {}
    bounded.allowed = 13
    assert counts(step(scheduler)[1]) == {"bounded": 1}
    assert len(bounded.tokens) == 13
