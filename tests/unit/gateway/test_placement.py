"""Which node loads a model, which replica takes a request, and what several nodes say together."""

from typing import Any

import pytest

from inference.gateway.placement import Site, choose, places, told
from inference.protocol import NodeView, ReplicaState, ReplicaView
from registry.nodes.homes import homes

NOW = 1000.0
GB = 1024**3
ROOMY = NodeView(ram_bytes=8 * GB, taken_bytes=0)
FULL = NodeView(ram_bytes=8 * GB, taken_bytes=8 * GB)
CLOSED = NodeView(ram_bytes=8 * GB, takes=False)


def replica(node: str, state: ReplicaState, **changes: Any) -> ReplicaView:
    fields: dict[str, Any] = {
        "version_pk": 1, "model": "m", "version": "1.0.0", "reason": "", "socket": None, "progress": 0.0, "since": 0.0
    }  # fmt: skip
    return ReplicaView(**(fields | {"node": node, "state": state} | changes))


def site(node: str, state: ReplicaState | None = None, *, view: NodeView = ROOMY, **changes: Any) -> Site:
    known = None if state is None else replica(node, state, **changes)
    return Site(node=node, own=node == "a", view=view, replica=known)


def asked(*sites: Site, wanted: int = 1, size_bytes: int = GB) -> list[str]:
    return places(sites, model="m", size_bytes=size_bytes, wanted=wanted, now=NOW)


class TestPlaces:
    def test_a_model_that_is_nowhere_goes_to_its_home(self) -> None:
        sites = [site(node) for node in "abcd"]
        assert asked(*sites) == asked(*reversed(sites)) == homes("m", "abcd", 1)

    def test_who_loads_it_already_is_asked_again(self) -> None:
        for node in "abcd":
            sites = [site(each, ReplicaState.LOADING if each == node else None) for each in "abcd"]
            assert asked(*sites) == [node]

    def test_who_has_it_in_line_is_asked_again(self) -> None:
        sites = [site("a", view=FULL), site("b", ReplicaState.COLD, view=FULL, place=2)]
        assert asked(*sites) == ["b"]

    def test_who_has_room_goes_before_who_must_make_room(self) -> None:
        for node in "abcd":
            assert asked(*(site(each, view=ROOMY if each == node else FULL) for each in "abcd")) == [node]

    @pytest.mark.parametrize(
        "other",
        [
            site("b", view=CLOSED),
            site("b", ReplicaState.FAILED, never_fits=True),
            site("b", ReplicaState.FAILED, retry_at=NOW + 30),
        ],
    )
    def test_who_can_not_load_it_is_not_asked(self, other: Site) -> None:
        assert asked(site("a", view=FULL), other) == ["a"]

    def test_where_nobody_can_the_node_that_says_why_is_asked(self) -> None:
        assert asked(site("a", ReplicaState.FAILED, never_fits=True)) == ["a"]

    def test_as_many_nodes_are_asked_as_are_wanted(self) -> None:
        sites = [site(node) for node in "abcd"]
        assert asked(*sites, wanted=2) == homes("m", "abcd", 2)
        assert sorted(asked(*sites, wanted=9)) == list("abcd")

    def test_those_that_have_it_count_as_the_first(self) -> None:
        sites = [site(node, ReplicaState.READY if node == "c" else None) for node in "abcd"]
        assert asked(*sites, wanted=2)[0] == "c"


class TestTold:
    def test_the_state_that_a_request_would_like_best_is_told(self) -> None:
        ready, loading = site("a", ReplicaState.READY), site("b", ReplicaState.LOADING)
        assert told([loading, ready], NOW) is ready.replica

    def test_the_load_that_is_furthest_is_told(self) -> None:
        ahead = site("b", ReplicaState.LOADING, progress=0.7)
        assert told([site("a", ReplicaState.LOADING, progress=0.2), ahead], NOW) is ahead.replica

    def test_a_failure_is_told_where_nobody_else_can_load_it(self) -> None:
        failed = site("a", ReplicaState.FAILED, retry_at=NOW + 30)
        assert told([failed, site("b", view=CLOSED)], NOW) is failed.replica

    def test_a_failure_is_none_while_another_node_can_load_it(self) -> None:
        assert told([site("a", ReplicaState.FAILED, retry_at=NOW + 30), site("b")], NOW) is None

    def test_what_nobody_speaks_of_is_cold(self) -> None:
        assert told([site("a"), site("b")], NOW) is None


class TestChoose:
    A, B = replica("a", ReplicaState.READY), replica("b", ReplicaState.READY)

    def chosen(self, *, work: dict[str, int] | None = None, held: dict[str, int] | None = None) -> str:
        return choose(
            (self.B, self.A),
            own_node="a",
            work=lambda each: (work or {}).get(each.node, 0),
            held_tokens=lambda each: (held or {}).get(each.node, 0),
        ).node

    def test_the_least_busy_one_is_chosen(self) -> None:
        assert self.chosen(work={"a": 1}) == "b"

    def test_among_equals_the_own_node_is_chosen(self) -> None:
        assert self.chosen(work={"a": 3, "b": 3}) == "a"

    def test_one_that_holds_the_prompt_may_have_a_little_more_work(self) -> None:
        assert self.chosen(work={"b": 1}, held={"b": 500}) == "b"
        assert self.chosen(work={"b": 3}, held={"b": 500}) == "a"

    def test_a_few_tokens_are_worth_nothing(self) -> None:
        assert self.chosen(work={"b": 1}, held={"b": 5}) == "a"
