"""Who makes room for whom, and how long anybody waits."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.supervisor.space import Space
from inference.supervisor.swapping import Loaded, Plan, Times, Waiting, longest_wait, plan, price, residence
from tests.unit.supervisor.swap_world import Model, World, check, fates, next_worlds, settled, wanted

TIMES = Times(residence_least=1.0, residence_most=15.0, residence_loads=4.0, turn=15.0)
NOW = 1000.0


def ready(pk: int, ram: int = 1, *, age: float = 100.0, busy: int = 0, price: float = 0.0, load: float = 0.0) -> Loaded:
    return Loaded(pk=pk, space=Space(ram), ready_at=NOW - age, busy=busy, price=price, load_seconds=load)


def going(pk: int, ram: int = 1) -> Loaded:
    return Loaded(pk=pk, space=Space(ram), going=True, ready_at=NOW - 100.0)


def pinned(pk: int, ram: int = 1) -> Loaded:
    return Loaded(pk=pk, space=Space(ram), pinned=True, ready_at=NOW - 100.0)


def loading(pk: int, ram: int = 1) -> Loaded:
    return Loaded(pk=pk, space=Space(ram))


def waits(pk: int, *ram: int, since: float = NOW, present: bool = False) -> Waiting:
    return Waiting(pk=pk, since=since, ways=tuple(map(Space, ram or (1,))), present=present)


def planned(waiting: list[Waiting], loaded: list[Loaded], ram: int) -> Plan:
    return plan(waiting, loaded, Space(ram), NOW, TIMES)


# --- Who is loaded ---


def test_what_fits_into_what_is_free_is_loaded() -> None:
    said = planned([waits(1), waits(2)], [ready(3)], 3)
    assert said.start == ((1, 0), (2, 0)) and not said.leave and not said.line


def test_what_fits_only_when_made_smaller_is_made_smaller() -> None:
    assert planned([waits(1, 8, 5, 3)], [], 6).start == ((1, 1),)


def test_nothing_is_made_smaller_only_because_others_are_loaded() -> None:
    said = planned([waits(1, 8, 5)], [ready(2, 4)], 8)
    assert said.leave == (2,) and not said.start


def test_what_can_never_fit_is_refused_and_nobody_leaves_for_it() -> None:
    said = planned([waits(1, 9, 7), waits(2)], [ready(3, 6)], 6)
    assert said.refuse == (1,) and said.leave == (3,) and said.line == (2,)


def test_one_that_is_still_there_is_refused_when_it_is_gone() -> None:
    assert planned([waits(1, 9, present=True)], [going(1, 3)], 6) == Plan()
    assert planned([waits(1, 9)], [], 6).refuse == (1,)


def test_what_does_not_fit_beside_what_is_kept_loaded_is_refused() -> None:
    assert planned([waits(1, 3)], [pinned(2, 4)], 6).refuse == (1,)


def test_those_who_came_first_are_first() -> None:
    said = planned([waits(1, since=NOW - 1), waits(2, since=NOW - 2)], [pinned(3)], 2)
    assert said.start == ((2, 0),) and said.line == (1,)


# --- Who makes room ---


def test_what_is_kept_loaded_and_what_is_being_loaded_stays() -> None:
    assert planned([waits(1)], [pinned(2), loading(3)], 2) == Plan(line=(1,))


def test_the_cheapest_leaves() -> None:
    assert planned([waits(1)], [ready(2, price=5.0), ready(3, price=1.0), ready(4, price=3.0)], 3).leave == (3,)


def test_price_counts_for_each_byte() -> None:
    assert planned([waits(1, 2)], [ready(2, 2, price=1.0), ready(3, 8, price=2.0)], 10).leave == (3,)


def test_nobody_leaves_in_vain() -> None:
    said = planned([waits(1, 4)], [ready(2, 1, price=0.0), ready(3, 4, price=10.0)], 5)
    assert said.leave == (3,), "with it alone there is enough"
    said = planned([waits(1, 4)], [ready(2, 2), loading(3, 2)], 4)
    assert not said.leave, "alone it would not be enough, and the other can't be asked yet"


def test_who_is_on_the_way_out_counts_as_gone() -> None:
    said = planned([waits(1)], [going(2), ready(3)], 2)
    assert said.leave == (2,)


def test_a_model_stays_as_long_as_its_load_took_a_few_times_over() -> None:
    said = planned([waits(1)], [ready(2, age=3.0, load=2.0)], 1)
    assert not said.leave and said.look_at == NOW - 3.0 + 8.0
    assert planned([waits(1)], [ready(2, age=8.0, load=2.0)], 1).leave == (2,)
    assert (residence(0.01, TIMES), residence(100.0, TIMES)) == (1.0, 15.0)


def test_a_model_serves_its_requests_before_it_leaves_for_as_long_as_a_turn() -> None:
    busy = ready(2, busy=3)
    said = planned([waits(1, since=NOW - 5.0)], [busy], 1)
    assert not said.leave and said.look_at == NOW - 5.0 + TIMES.turn
    assert planned([waits(1, since=NOW - 15.0)], [busy], 1).leave == (2,)


def test_one_without_requests_leaves_before_one_that_has_some() -> None:
    idle = price(reload_seconds=5.0, prefill_seconds=0.0, uses=10.0, busy=0)
    busy = price(reload_seconds=5.0, prefill_seconds=0.0, uses=10.0, busy=1)
    said = planned([waits(1, since=NOW - 60.0)], [ready(2, price=busy, busy=1), ready(3, price=idle)], 2)
    assert said.leave == (3,)


def test_what_takes_long_to_have_back_and_is_likely_wanted_costs_more() -> None:
    def cost(reload: float, prefill: float, uses: float) -> float:
        return price(reload_seconds=reload, prefill_seconds=prefill, uses=uses, busy=0)

    assert cost(10.0, 0.0, 5.0) > cost(1.0, 0.0, 5.0)
    assert cost(1.0, 9.0, 5.0) > cost(1.0, 0.0, 5.0)
    assert cost(1.0, 0.0, 50.0) > cost(1.0, 0.0, 5.0)
    assert cost(10.0, 10.0, 0.0) == 0.0


def test_those_behind_take_only_what_the_first_in_need_leaves_over() -> None:
    first, small = waits(1, 3, since=NOW - 1), waits(2, 1)
    assert planned([first, small], [going(3, 2), pinned(4, 2)], 5).line == (1, 2), "1 is free, and the first needs it"
    said = planned([first, small], [going(3, 3), pinned(4, 2)], 6)
    assert said.start == ((2, 0),) and said.line == (1,)


def test_what_is_left_over_is_given_away_once() -> None:
    first, small, other = waits(1, 3, since=NOW - 1), waits(2), waits(3)
    said = planned([first, small, other], [going(4, 2), pinned(5, 1)], 5)
    assert said.start == ((2, 0),) and said.line == (1, 3)


def test_one_whose_process_of_before_is_not_gone_yet_is_not_started() -> None:
    assert planned([waits(1, present=True)], [going(1)], 2).line == (1,)


def test_only_the_first_in_need_makes_others_leave() -> None:
    said = planned([waits(1, since=NOW - 1), waits(2)], [ready(3), ready(4)], 2)
    assert said.leave == (3,)


def test_the_first_in_line_that_still_drains_may_be_taken_back() -> None:
    assert planned([waits(1, present=True)], [going(1)], 1) == Plan(line=(1,))


def test_one_behind_the_first_that_still_drains_may_not() -> None:
    said = planned([waits(1, since=NOW - 1), waits(2, present=True)], [going(2)], 1)
    assert said == Plan(leave=(2,), line=(1, 2))


# --- The bound ---


def node(*sizes: int | tuple[int, ...], has: int | tuple[int, ...]) -> tuple[tuple[Space, ...], Space]:
    """What each model takes, and what there is: RAM, or RAM and each GPU."""
    return tuple(map(places, sizes)), places(has)


def places(sizes: int | tuple[int, ...]) -> Space:
    return Space(sizes) if isinstance(sizes, int) else Space(sizes[0], sizes[1:])


@pytest.mark.parametrize(
    ("sizes", "has"),
    [
        node(1, 1, has=1),
        node(1, 1, 1, has=1),
        node(1, 1, 1, has=2),
        node(2, 1, 1, has=2),
        node(3, 2, 1, has=4),
        node(2, 2, 1, has=3),
        node((0, 1), (0, 1), 1, has=(1, 1)),
        node((1, 2), (2, 1), (1, 1), has=(2, 2)),
        node((1, 1, 1), (0, 1, 0), (0, 0, 1), has=(1, 1, 1)),
        node((1, 2, 0), (1, 0, 2), (2, 1, 1), has=(3, 2, 2)),
    ],
    ids=str,
)
def test_in_every_world_that_can_be_reached_memory_is_enough_and_nobody_waits_beyond_the_bound(
    sizes: tuple[Space, ...], has: Space
) -> None:
    first = settled((Model(),) * len(sizes), sizes, has)
    seen, unvisited = {first}, [first]
    longest = 0
    while unvisited:
        for world in next_worlds(unvisited.pop(), sizes, has):
            if world not in seen:
                check(world, sizes, has)
                longest = max(longest, *(model.waits or 0 for model in world))
                seen.add(world)
                unvisited.append(world)
    assert longest > 0, "nobody had to wait, so nothing was tried"


a_size = st.builds(Space, st.integers(1, 5), st.tuples(st.integers(0, 5), st.integers(0, 5)) | st.just(()))


@settings(max_examples=60, deadline=None)
@given(
    chance=st.randoms(use_true_random=False),
    sizes=st.lists(a_size, min_size=2, max_size=6).map(tuple),
    slack=st.builds(Space, st.integers(0, 6), st.tuples(st.integers(0, 6), st.integers(0, 6))),
)
def test_on_any_path_of_a_larger_node_too(chance: random.Random, sizes: tuple[Space, ...], slack: Space) -> None:
    most = Space()
    for size in sizes:
        most = Space() - (Space() - most).least(Space() - size)
    has = most + slack
    world: World = (Model(),) * len(sizes)
    for _ in range(60):
        asked = tuple(chance.choice(wanted(chance.choice(fates(model)))) for model in world)
        world = settled(asked, sizes, has)
        check(world, sizes, has)


# --- Memory as a vector ---


def on_gpu(pk: int, ram: int, gpu: int, *, price: float = 0.0) -> Loaded:
    return Loaded(pk=pk, space=Space(ram, (gpu,)), ready_at=NOW - 100.0, price=price)


def test_what_does_not_fit_in_one_place_does_not_fit() -> None:
    waiting = Waiting(pk=1, since=NOW, ways=(Space(1, (3,)),))
    assert plan([waiting], [], Space(9, (2,)), NOW, TIMES).refuse == (1,)
    assert plan([waiting], [], Space(9, (3,)), NOW, TIMES).start == ((1, 0),)
    assert plan([waiting], [], Space(9), NOW, TIMES).refuse == (1,), "there is no GPU"


def test_who_leaves_relieves_the_place_that_is_full() -> None:
    waiting = Waiting(pk=1, since=NOW, ways=(Space(1, (2,)),))
    cheap_but_in_ram, dear_but_there = on_gpu(2, 5, 0, price=0.1), on_gpu(3, 1, 2, price=9.0)
    assert plan([waiting], [cheap_but_in_ram, dear_but_there], Space(9, (2,)), NOW, TIMES).leave == (3,)


def test_price_counts_for_each_byte_where_bytes_are_missing() -> None:
    waiting = Waiting(pk=1, since=NOW, ways=(Space(1, (2,)),))
    large_in_ram, large_there = on_gpu(2, 90, 2, price=3.0), on_gpu(3, 1, 4, price=5.0)
    assert plan([waiting], [large_in_ram, large_there], Space(99, (6,)), NOW, TIMES).leave == (3,)


def test_the_bound_is_what_the_module_says() -> None:
    assert longest_wait(2, load=300.0, drain=60.0, stop=5.0, exit=1.0, times=TIMES) == 2 * (300 + 15 + 60 + 5 + 1)
