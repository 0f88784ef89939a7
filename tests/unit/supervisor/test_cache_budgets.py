"""What each worker is told that one tier of its cache may take."""

from collections import deque
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from inference.protocol import TierReport
from inference.supervisor.cache_budgets import Grant, Round, Seat, Tier, decide, heard, said
from registry.cache.eviction import EvictionPolicy

TIER = Tier(bytes=1_000, shares={"a": 500, "b": 500}, policy=EvictionPolicy.LRU)
UNTOLD = Grant(said=-1)


def seat(model: str, **fields: Any) -> Seat:
    usual: dict[str, Any] = {"name": f"{model}@1", "model": model, "running": True, "grant": UNTOLD}
    return Seat(**(usual | fields))


def granted(size: int) -> Grant:
    return Grant(said=size, in_force=size)


def decided(*seats: Seat, tier: Tier = TIER) -> Round:
    return decide(seats, tier, after=None)


# --- Grants ---


def test_what_was_said_counts_at_once_and_what_was_in_force_until_the_worker_confirms() -> None:
    shrinking = said(granted(800), 300)
    assert shrinking == Grant(said=300, in_force=800, confirmed=False)
    assert heard(shrinking, TierReport(budget_bytes=800, bytes=700)) == shrinking
    assert heard(shrinking, TierReport(budget_bytes=300, bytes=250)) == granted(300)


def test_growing_counts_before_it_is_confirmed() -> None:
    assert said(granted(100), 400).in_force == 400


def test_a_worker_that_still_holds_more_than_it_may_counts_with_what_it_holds() -> None:
    """Blocks that a sequence uses can't go at once."""
    assert heard(said(granted(800), 300), TierReport(budget_bytes=300, bytes=420)).in_force == 420


def test_a_worker_without_this_tier_holds_nothing_whatever_it_was_told() -> None:
    assert heard(said(UNTOLD, 300), TierReport(possible=False)) == Grant(said=300, in_force=0)


def test_saying_the_same_again_changes_nothing() -> None:
    assert said(granted(100), 100) == granted(100)


# --- Rounds ---


def test_a_worker_alone_is_told_all_there_is() -> None:
    assert decided(seat("a")).say == {"a@1": 1_000}


def test_two_workers_are_told_their_shares() -> None:
    assert decided(seat("a"), seat("b")).say == {"a@1": 500, "b@1": 500}


def test_whoever_has_a_budget_already_is_told_nothing_new() -> None:
    assert decided(seat("a", grant=granted(500)), seat("b", grant=granted(500))).say == {}


def test_a_newcomer_gets_what_is_free_now_and_the_rest_when_the_other_has_shrunk() -> None:
    """One holds all of it and is told to give half of it up: only then may the other have that half."""
    full = seat("a", grant=granted(1_000), held=1_000)
    first = decided(full, seat("b"))
    assert first.say["a@1"] < 1_000
    assert first.say["b@1"] == 0
    shrunk = heard(said(granted(1_000), first.say["a@1"]), TierReport(budget_bytes=first.say["a@1"], bytes=900))
    second = decided(seat("a", grant=shrunk, held=900), seat("b", grant=granted(0)), tier=TIER)
    assert second.say["b@1"] == 1_000 - max(900, first.say["a@1"])


def test_a_worker_that_has_not_confirmed_is_told_nothing_else() -> None:
    waiting = seat("a", grant=said(granted(1_000), 700), held=100)
    assert "a@1" not in decided(waiting, seat("b", grant=granted(0))).say


def test_while_nobody_has_said_who_is_owed_what_those_who_run_have_equal_parts() -> None:
    nobody_named = Tier(bytes=1_000, shares={}, policy=EvictionPolicy.LRU)
    assert decided(seat("y"), seat("z"), tier=nobody_named).say == {"y@1": 500, "z@1": 500}


def test_a_model_that_has_nothing_to_cache_keeps_nothing_from_the_others() -> None:
    """An embedding model has no share; it would never say that it has given up what it was lent."""
    assert decided(seat("embeddings")).say == {"embeddings@1": 0}


def test_a_model_that_can_not_have_this_tier_leaves_its_share_to_the_others() -> None:
    assert decided(seat("a", possible=False), seat("b")).say == {"a@1": 0, "b@1": 1_000}


def test_versions_of_one_model_divide_what_it_is_owed() -> None:
    both = (seat("a", name="a@1"), seat("a", name="a@2"), seat("b"))
    assert decided(*both).shares == {"a@1": 250, "a@2": 250, "b@1": 500}


def test_nobody_gets_more_than_the_ceiling_however_much_is_free() -> None:
    tier = Tier(bytes=1_000, shares={"a": 300}, ceilings={"a": 300}, policy=EvictionPolicy.LRU)
    assert decided(seat("a"), tier=tier).say == {"a@1": 300}


def test_blocks_of_a_model_that_does_not_run_stay_while_there_is_room_and_count() -> None:
    resting = seat("b", running=False, held=400)
    answer = decided(seat("a"), resting)
    assert answer.trim == {}
    assert answer.say == {"a@1": 600}


def test_they_are_trimmed_when_their_share_has_shrunk_and_another_is_owed_the_room() -> None:
    tier = Tier(bytes=1_000, shares={"a": 900, "b": 100}, policy=EvictionPolicy.LRU)
    busy = seat("a", grant=granted(600), held=600, grew=True)
    answer = decided(busy, seat("b", running=False, held=400), tier=tier)
    assert 100 <= answer.trim["b@1"] < 400
    assert "a@1" not in answer.say  # nothing is free yet


def test_they_are_trimmed_when_the_whole_tier_has_shrunk() -> None:
    tier = Tier(bytes=300, shares={"b": 300}, policy=EvictionPolicy.LRU)
    assert decided(seat("b", running=False, held=400), tier=tier).trim == {"b@1": 300}


# --- Never more than there is ---


class Node:
    """Workers that read, fill up and report when a test says so."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.shares = dict.fromkeys("abcd", 100)
        self.policy = EvictionPolicy.LRU
        self.grants: dict[str, Grant] = {}
        self.unread: dict[str, deque[int]] = {}
        self.budget: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.reports: dict[str, deque[TierReport]] = {}
        self.heard: dict[str, TierReport] = {}
        self.grew: set[str] = set()
        self.gave_way: str | None = None

    def start(self, name: str) -> None:
        self.grants[name] = UNTOLD
        self.unread[name], self.reports[name] = deque(), deque()
        self.budget[name] = self.held[name] = 0
        self.heard[name] = TierReport()

    def stop(self, name: str) -> None:
        for state in (self.grants, self.unread, self.reports, self.budget, self.held, self.heard):
            state.pop(name)

    def read(self, name: str) -> None:
        """Its next budget; what is beyond it goes."""
        if self.unread[name]:
            self.budget[name] = self.unread[name].popleft()
            self.held[name] = min(self.held[name], self.budget[name])

    def fill(self, name: str, part: int) -> None:
        self.held[name] += (self.budget[name] - self.held[name]) * part // 10

    def report(self, name: str) -> None:
        self.reports[name].append(TierReport(budget_bytes=self.budget[name], bytes=self.held[name]))

    def hear(self, name: str) -> None:
        if self.reports[name]:
            before, self.heard[name] = self.heard[name], self.reports[name].popleft()
            if self.heard[name].bytes > before.bytes:
                self.grew.add(name)
            self.grants[name] = heard(self.grants[name], self.heard[name])

    def round(self) -> None:
        seats = [
            seat(name, name=name, grant=grant, held=self.heard[name].bytes, grew=name in self.grew)
            for name, grant in self.grants.items()
        ]
        self.grew = set()
        tier = Tier(bytes=self.size, shares=self.shares, policy=self.policy)
        answer = decide(seats, tier, after=self.gave_way)
        self.gave_way = answer.gave_way
        for name, size in answer.say.items():
            assert size >= 0
            self.grants[name] = said(self.grants[name], size)
            self.unread[name].append(size)

    def settle(self) -> None:
        """Until nobody has anything new to say."""
        for _ in range(20):
            for name in self.grants:
                while self.unread[name]:
                    self.read(name)
                self.report(name)
                while self.reports[name]:
                    self.hear(name)
            self.round()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["start", "stop", "read", "fill", "report", "hear", "round", "share", "policy"]),
        st.sampled_from("abcd"),
        st.integers(0, 10),
    ),
    max_size=150,
)


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_all_workers_together_never_hold_more_than_the_tier_has(steps: list[tuple[str, str, int]]) -> None:
    node = Node(1_000)
    for action, name, number in steps:
        running = name in node.grants
        match action:
            case "start" if not running:
                node.start(name)
            case "stop" if running:
                node.stop(name)
            case "read" if running:
                node.read(name)
            case "fill" if running:
                node.fill(name, number)
            case "report" if running:
                node.report(name)
            case "hear" if running:
                node.hear(name)
            case "round":
                node.round()
            case "share":
                node.shares = node.shares | {name: number * 25}
            case "policy":
                node.policy = list(EvictionPolicy)[number % 4]
        assert sum(node.held.values()) <= sum(node.budget.values()) <= node.size
    node.settle()
    assert sum(grant.said for grant in node.grants.values()) <= node.size
    if node.grants:  # and nothing is left unused
        assert sum(grant.said for grant in node.grants.values()) == node.size
