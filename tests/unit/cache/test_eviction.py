"""The global eviction policy: state in, limits out."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.cache.eviction import EvictionPolicy, Holding, limits, step, transition, wanted

MIB = 1024 * 1024


def holding(model: str, held: int, share: int, **rest: object) -> Holding:
    return msgspec.convert({"model": model, "bytes": held, "share": share, **rest}, Holding)


def given_way(holdings: list[Holding], decided: dict[str, int]) -> set[str]:
    return {each.model for each in holdings if decided[each.model] < each.bytes}


# --- Who gives way ---------------------------------------------------------------------------------------------------

FULL = [
    # All have borrowed: each is owed 200 of 1000, and a fourth model, owed the rest, asks.
    holding("a", 340, 200, least_recent_use=30.0, least_uses=9, weights_bytes=5000),
    holding("b", 330, 200, least_recent_use=10.0, least_uses=7, weights_bytes=9000),
    holding("c", 330, 200, least_recent_use=20.0, least_uses=1, weights_bytes=7000),
    holding("d", 0, 400, wants=50),
]


@pytest.mark.parametrize(
    ("policy", "after", "victim"),
    [
        ("lru", None, "b"),
        ("lfu", None, "c"),
        ("smallest_model_first", None, "a"),
        ("round_robin", None, "a"),
        ("round_robin", "a", "b"),
        ("round_robin", "b", "c"),
        ("round_robin", "c", "a"),
    ],
)
def test_when_all_is_taken_the_policy_picks_who_gives_way(policy: str, after: str | None, victim: str) -> None:
    decided = limits(FULL, 1000, EvictionPolicy(policy), after=after)
    assert given_way(FULL, decided.limits) == {victim}
    assert decided.limits["d"] == 50
    assert decided.gave_way == victim


def test_smallest_is_measured_by_the_weights_on_disk_and_not_by_what_is_held() -> None:
    holdings = [
        holding("big", 300, 100, weights_bytes=9_000_000),
        holding("small", 600, 100, weights_bytes=1_000_000),
        holding("asks", 100, 300, wants=10, weights_bytes=1),
    ]
    assert given_way(holdings, limits(holdings, 1000, EvictionPolicy.SMALLEST_MODEL_FIRST).limits) == {"small"}


def test_a_borrower_whose_own_block_is_the_oldest_replaces_its_own() -> None:
    holdings = [
        holding("a", 500, 400, least_recent_use=5.0, wants=50),
        holding("b", 500, 400, least_recent_use=9.0),
    ]
    assert limits(holdings, 1000, EvictionPolicy.LRU).limits == {"a": 500, "b": 500}


def test_a_borrower_takes_from_the_one_with_the_older_block() -> None:
    holdings = [
        holding("a", 500, 400, least_recent_use=9.0, wants=50),
        holding("b", 500, 400, least_recent_use=5.0),
    ]
    assert limits(holdings, 1000, EvictionPolicy.LRU).limits == {"a": 550, "b": 450}


def test_a_victim_is_not_pushed_below_its_share() -> None:
    holdings = [
        holding("a", 550, 500, least_recent_use=1.0),
        holding("b", 450, 500, least_recent_use=9.0, wants=400),
    ]
    assert limits(holdings, 1000, EvictionPolicy.LRU).limits == {"a": 500, "b": 500}


def test_who_is_within_its_share_keeps_even_the_oldest_block_of_all() -> None:
    holdings = [
        holding("old", 400, 500, least_recent_use=1.0),
        holding("new", 600, 500, least_recent_use=9.0, wants=100),
    ]
    assert limits(holdings, 1000, EvictionPolicy.LRU).limits == {"old": 400, "new": 600}


# --- Room that nobody holds ------------------------------------------------------------------------------------------


def test_a_model_grows_past_its_share_while_there_is_room() -> None:
    holdings = [holding("a", 500, 500, wants=200), holding("b", 100, 500)]
    assert limits(holdings, 1000, EvictionPolicy.LRU).limits["a"] >= 700


def test_free_room_is_lent_up_to_the_shares_first() -> None:
    holdings = [holding("a", 0, 600), holding("b", 0, 300)]
    assert limits(holdings, 1000, EvictionPolicy.LRU).limits == {"a": 667, "b": 333}


def test_a_quota_bounds_borrowing_too() -> None:
    holdings = [holding("a", 100, 100, ceiling=150, wants=500), holding("b", 0, 100)]
    assert limits(holdings, 1000, EvictionPolicy.LRU).limits == {"a": 150, "b": 850}


def test_a_newcomer_gets_a_beginning_without_asking_though_all_is_taken() -> None:
    holdings = [holding("borrower", 1024, 512, least_recent_use=1.0), holding("newcomer", 0, 512)]
    assert limits(holdings, 1024, EvictionPolicy.LRU).limits == {"borrower": 1024 - 16, "newcomer": step(1024)}


def test_a_global_size_that_shrank_is_kept_at_once() -> None:
    holdings = [holding("a", 700, 100, least_recent_use=9.0), holding("b", 300, 100, least_recent_use=5.0)]
    assert limits(holdings, 400, EvictionPolicy.LRU).limits == {"a": 300, "b": 100}


def test_shares_of_more_than_there_is_are_scaled_down() -> None:
    holdings = [holding("a", 0, 3000), holding("b", 0, 1000)]
    assert limits(holdings, 1000, EvictionPolicy.LRU).limits == {"a": 750, "b": 250}


# --- Asking and telling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "limit", "grew", "expected"),
    [(100, 100, True, 16), (90, 100, True, 16), (84, 100, True, 0), (100, 100, False, 0)],
)
def test_a_worker_wants_more_when_it_grew_and_its_room_is_nearly_gone(
    held: int, limit: int, grew: bool, expected: int
) -> None:
    assert wanted(held=held, limit=limit, grew=grew, step=16) == expected


def test_who_grows_waits_for_those_who_shrink() -> None:
    target = {"a": 300, "b": 700}
    told = transition(target, {"a": 600, "b": 300}, 1000)
    assert told == {"a": 300, "b": 400}
    assert transition(target, {"a": 300, "b": 400}, 1000) == target


# --- Properties ------------------------------------------------------------------------------------------------------

GLOBAL = st.integers(0, 4096)
POLICIES = st.sampled_from(EvictionPolicy)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[Holding], int]:
    """Holdings of up to five models whose shares fit, as allocation makes them; what is held may be anything."""
    global_bytes = draw(GLOBAL)
    room = global_bytes
    holdings = []
    for model in "abcde"[: draw(st.integers(0, 5))]:
        share = draw(st.integers(0, room))
        room -= share
        holdings.append(
            Holding(
                model=model,
                bytes=draw(st.integers(0, 2048)),
                share=share,
                ceiling=draw(st.none() | st.integers(share, 4096)),
                wants=draw(st.integers(0, 512)),
                weights_bytes=draw(st.integers(0, 3)),
                least_recent_use=draw(st.none() | st.floats(0, 100)),
                least_uses=draw(st.none() | st.integers(0, 3)),
            )
        )
    return holdings, global_bytes


@given(cases(), POLICIES)
def test_the_global_size_is_never_exceeded_and_all_of_it_is_usable(
    case: tuple[list[Holding], int], policy: EvictionPolicy
) -> None:
    holdings, global_bytes = case
    decided = limits(holdings, global_bytes, policy).limits
    assert set(decided) == {each.model for each in holdings}
    assert min(decided.values(), default=0) >= 0
    assert sum(decided.values()) <= global_bytes
    if holdings and any(each.ceiling is None for each in holdings):
        assert sum(decided.values()) == global_bytes


@given(cases(), POLICIES)
def test_nobody_is_pushed_below_the_smaller_of_its_share_and_what_it_holds(
    case: tuple[list[Holding], int], policy: EvictionPolicy
) -> None:
    holdings, global_bytes = case
    decided = limits(holdings, global_bytes, policy).limits
    for each in holdings:
        assert decided[each.model] >= min(each.share, each.bytes)
        assert each.ceiling is None or decided[each.model] <= each.ceiling


@given(cases(), POLICIES)
def test_whoever_wants_up_to_its_share_gets_it(case: tuple[list[Holding], int], policy: EvictionPolicy) -> None:
    holdings, global_bytes = case
    decided = limits(holdings, global_bytes, policy).limits
    for each in holdings:
        assert decided[each.model] >= min(each.share, each.bytes + each.wants)


@given(cases(), POLICIES)
def test_nobody_gives_way_while_there_is_room_for_all(case: tuple[list[Holding], int], policy: EvictionPolicy) -> None:
    holdings, global_bytes = case
    holdings = [msgspec.structs.replace(each, ceiling=None) for each in holdings]
    asked = sum(each.bytes + max(each.wants, step(global_bytes)) for each in holdings)
    if asked <= global_bytes:
        assert not given_way(holdings, limits(holdings, global_bytes, policy).limits)


@given(cases(), POLICIES, st.randoms())
def test_the_order_in_which_models_are_named_decides_nothing(
    case: tuple[list[Holding], int], policy: EvictionPolicy, random: object
) -> None:
    holdings, global_bytes = case
    shuffled = list(holdings)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert limits(shuffled, global_bytes, policy) == limits(holdings, global_bytes, policy)


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 900)),
    st.dictionaries(st.sampled_from("abcde"), st.integers(0, 900)),
    GLOBAL,
)
def test_on_the_way_to_new_limits_the_sum_is_never_exceeded(
    target: dict[str, int], in_force: dict[str, int], global_bytes: int
) -> None:
    told = transition(target, in_force, global_bytes)
    at_worst = sum(max(told.get(model, 0), in_force.get(model, 0)) for model in {*told, *in_force})
    assert at_worst <= max(global_bytes, sum(in_force.values()))
    assert all(told[model] <= target[model] for model in target)


@given(cases(), POLICIES)
def test_workers_that_follow_reach_their_limits(case: tuple[list[Holding], int], policy: EvictionPolicy) -> None:
    holdings, global_bytes = case
    target = limits(holdings, global_bytes, policy).limits
    in_force = {each.model: each.bytes for each in holdings}
    for _ in range(2):
        in_force = transition(target, in_force, global_bytes)
    assert in_force == target
