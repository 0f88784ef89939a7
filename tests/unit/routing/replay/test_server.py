"""A simulated model: its lanes, its queue, its cache."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from routing.replay.server import Beginning, Cache, Job, Machine, Server
from routing.replay.service import Service
from tests.unit.routing.replay.traces import a_link, an_arrival, facts

SERVICE = Service(prompt=(1.0, 0.1, 2.0, 4.0), token=(0.5, 0.25, 0.125))


def a_prompt(*names: int) -> tuple[Beginning, ...]:
    """A beginning of ten tokens for each."""
    return tuple(Beginning(a_link(names[: end + 1]), 10 * (end + 1)) for end in range(len(names)))


def a_job(number: int, *names: int, prompt_tokens: int = 100) -> Job:
    arrival = an_arrival(float(number), prompt_tokens=prompt_tokens)
    return Job(number=number, arrival=arrival, links=(), beginnings=a_prompt(*names))


@given(
    st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), max_size=60),
    st.one_of(st.none(), st.integers(0, 200)),
)
def test_a_cache_never_has_more_than_fits_and_no_beginning_without_the_ones_before_it(
    prompts: list[list[int]], most: int | None
) -> None:
    cache, told = Cache(most), set[bytes]()
    for names in prompts:
        cache.keep(a_prompt(*names))
        assert most is None or cache.tokens <= most
        added, removed = cache.take_news()
        told = (told - set(removed)) | set(added)
        assert told == set(cache.held)
        for known in prompts:
            held = [each.link in cache.held for each in a_prompt(*known)]
            assert held == sorted(held, reverse=True)
    assert cache.tokens == 10 * len(cache.held)


def test_what_was_used_longest_ago_goes_first() -> None:
    cache = Cache(20)
    for names in ((1,), (2,), (1,), (3,)):
        cache.keep(a_prompt(*names))
    assert [cache.cached(a_prompt(name)) for name in (1, 2, 3)] == [10, 0, 10]


def test_a_cache_that_nothing_fits_into_keeps_nothing() -> None:
    cache = Cache(0)
    cache.keep(a_prompt(1, 2))
    assert not cache.held and not cache.cached(a_prompt(1, 2))


def a_server(machine: Machine | None = None, **changes: Any) -> Server:
    return Server(SERVICE, facts(**changes), machine or Machine())


def test_who_runs_beside_and_elsewhere_slows_a_request_down() -> None:
    machine = Machine()
    one, other = a_server(machine), a_server(machine)
    first = one.take(a_job(1))
    second = one.take(a_job(2))
    third = other.take(a_job(3))
    assert first is not None and second is not None and third is not None
    assert [each.seconds for each in (first, second, third)] == [11.0, 13.0, 19.0]
    assert one.computed(first.job) == 0.5 + 0.25 + 0.125
    other.finished(third.job)
    one.finished(second.job)
    assert one.computed(first.job) == 0.5


def test_who_finds_no_lane_waits_for_one() -> None:
    server = a_server(lanes=1)
    first = server.take(a_job(1))
    assert first is not None and server.take(a_job(2)) is None
    following = server.finished(first.job)
    assert following is not None and following.job.number == 2 and server.running == 1


def test_what_is_cached_is_not_computed_but_for_one_token() -> None:
    server = a_server()
    found = []
    for number, names in enumerate(((1, 2), (1, 3), (1, 2))):
        begun = server.take(a_job(number, *names, prompt_tokens=20))
        assert begun is not None
        server.computed(begun.job)
        found.append(begun.cached)
    assert found == [0, 10, 19]


def test_memory_in_use_is_of_what_runs() -> None:
    server = a_server(kv_tokens=1110)
    first = server.take(a_job(1))
    assert first is not None and server.cells == 0.1
    server.finished(first.job)
    assert server.cells == 0.0
