"""The eight strategies, each by its rule, on telemetry that the test tells."""

import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.catalogue import Version
from routing.ask import Ask
from routing.config import Rules, Strategy
from routing.sessions import Pins
from routing.strategies import BY_NAME, TOKENS_OF_WORK, Setting
from routing.strategies import Strategy as Choosing
from routing.targets import Target, Targets
from tests.catalogue import a_version
from tests.unit.routing.chance import chi_square_fits

ASK = Ask(model="auto")


class Pool:
    """Some ready models, named a, b, c …, and a strategy that chooses among them."""

    def __init__(self, strategy: Strategy, models: int = 3, **rules: Any) -> None:
        self.targets = Targets()
        self.all = [self.targets.of(a_version(chr(ord("a") + pk), pk)) for pk in range(models)]
        for target in self.all:
            target.says(warm=True, lanes=16, told=0, cells=0.0)
        self.pins = Pins()
        self.rules = Rules(strategy=strategy, **rules)
        self.strategy = self.renewed(self.all)

    def renewed(self, targets: Sequence[Target]) -> Choosing:
        """The strategy, for other candidates."""
        for target in self.all:
            target.unfollow()
        setting = Setting(
            pool=tuple(targets),
            rules=self.rules,
            targets=self.targets,
            random=random.Random(11).random,
            pins=self.pins,
        )
        self.strategy = BY_NAME[self.rules.strategy](setting)
        return self.strategy

    def __getitem__(self, model: str) -> Target:
        return self.all[ord(model) - ord("a")]

    def chosen(self, requests: int = 1, ask: Ask = ASK) -> str:
        return "".join(self.strategy.choose(ask).version.model for _ in range(requests))


def works(target: Target, requests: int) -> None:
    for _ in range(requests):
        target.began()


def limited(target: Target, used: float, *, late: bool = False) -> None:
    target.limited(used=used, late=late, exhausted=False)


def test_all_eight_are_there_and_each_says_how_every_candidate_stands() -> None:
    assert set(BY_NAME) == set(Strategy)
    for strategy in Strategy:
        pool = Pool(strategy)
        for target in pool.all:
            scored = pool.strategy.scored(target, Ask(model="auto", session="s", links=(b"link",)))
            assert scored.why
        assert all(BY_NAME[strategy].__doc__ or "" for strategy in Strategy)


def disturb(target: Target, draw: random.Random) -> None:
    """Something of its telemetry changes."""
    kind = draw.randrange(4)
    if kind == 0:
        target.began()
    elif kind == 1 and target.work:
        target.ended()
    elif kind == 2:
        target.answered(draw.uniform(0.05, 3.0))
    else:
        limited(target, draw.random())


@pytest.mark.parametrize("strategy", sorted(set(Strategy) - {Strategy.RANDOM, Strategy.WEIGHTED_RANDOM}))
def test_the_candidate_with_the_best_score_is_chosen_and_that_is_foretold(strategy: Strategy) -> None:
    pool = Pool(strategy, models=4)
    draw = random.Random(3)
    for step in range(200):
        target = draw.choice(pool.all)
        disturb(target, draw)
        ask = Ask(model="auto", session=f"s{step % 7}", now=float(step))
        scores = {each: pool.strategy.scored(each, ask).score for each in pool.all}
        foretold = pool.strategy.would_choose(ask)
        chosen = pool.strategy.choose(ask)
        assert chosen is foretold
        assert scores[chosen] >= max(scores.values()) - 0.3, "ranks are coarser than scores"
        chosen.began()
        chosen.ended()


class TestRoundRobin:
    @given(models=st.integers(1, 9), rounds=st.integers(1, 9))
    def test_it_is_exact(self, models: int, rounds: int) -> None:
        pool = Pool(Strategy.ROUND_ROBIN, models)
        assert set(Counter(pool.chosen(models * rounds)).values()) == {rounds}


class TestLeastLoaded:
    def test_the_least_work_for_its_lanes_is_chosen(self) -> None:
        pool = Pool(Strategy.LEAST_LOADED)
        pool["c"].says(warm=True, lanes=64, told=0, cells=0.0)
        for model, work in (("a", 4), ("b", 3), ("c", 5)):
            works(pool[model], work)
        assert pool.chosen(2) == "cc"
        pool["b"].ended()
        works(pool["c"], 6)
        assert pool.chosen() == "b"

    def test_what_others_send_a_worker_counts_as_it_says(self) -> None:
        pool = Pool(Strategy.LEAST_LOADED, models=2)
        pool["a"].says(warm=True, lanes=16, told=7, cells=0.0)
        assert pool.chosen(2) == "bb"

    def test_of_equal_work_memory_decides(self) -> None:
        pool = Pool(Strategy.LEAST_LOADED)
        for model, cells in (("a", 0.8), ("b", 0.3), ("c", 0.6)):
            pool[model].says(warm=True, lanes=16, told=0, cells=cells)
        assert pool.chosen(2) == "bb"

    def test_equals_take_turns(self) -> None:
        assert Counter(Pool(Strategy.LEAST_LOADED).chosen(9)) == {"a": 3, "b": 3, "c": 3}

    def test_what_must_be_loaded_comes_before_what_is_above_the_threshold_and_after_what_is_not(self) -> None:
        pool = Pool(Strategy.LEAST_LOADED, max_load_threshold=0.5)
        pool["a"].says(warm=False, lanes=1, told=0, cells=0.0)
        works(pool["b"], 8)
        works(pool["c"], 12)
        assert pool.chosen(2) == "bb"
        works(pool["b"], 1)
        assert pool.chosen(2) == "aa"
        pool["a"].says(warm=True, lanes=16, told=0, cells=0.6)
        assert pool.chosen() == "a", "above the threshold by its memory, and the least work of those that are"


class TestCacheAware:
    def held(self, pool: Pool, **tokens: int) -> Ask:
        """A prompt of which these models hold so many tokens."""
        for model, count in tokens.items():
            held = {b"first": 64, b"second": count}
            pool.targets.holds(pool[model], held, added=held)
        return Ask(model="auto", links=(b"first", b"second", b"third"))

    def test_who_holds_the_longest_beginning_is_chosen(self) -> None:
        pool = Pool(Strategy.CACHE_AWARE)
        held = {b"first": 64}
        pool.targets.holds(pool["a"], held, added=held)
        assert pool.chosen(2, self.held(pool, b=500)) == "bb"

    def test_a_popular_prompt_makes_no_hot_spot(self) -> None:
        pool = Pool(Strategy.CACHE_AWARE)
        ask = self.held(pool, b=2 * TOKENS_OF_WORK)
        works(pool["b"], 2)
        assert pool.chosen(1, ask) == "b", "what it saves is worth two requests"
        works(pool["b"], 1)
        assert pool.chosen(1, ask) in "ac"

    def test_of_several_who_hold_it_the_least_busy_is_chosen(self) -> None:
        pool = Pool(Strategy.CACHE_AWARE)
        ask = self.held(pool, a=900, c=900)
        works(pool["a"], 1)
        assert pool.chosen(1, ask) == "c"

    def test_what_is_held_no_more_counts_no_more(self) -> None:
        pool = Pool(Strategy.CACHE_AWARE)
        ask = self.held(pool, b=900)
        pool.targets.holds(pool["b"], {}, removed=(b"first", b"second"))
        assert Counter(pool.chosen(3, ask)) == {"a": 1, "b": 1, "c": 1}
        assert not pool.targets.holders

    def test_another_worker_of_a_model_holds_what_it_says_and_nothing_else(self) -> None:
        pool = Pool(Strategy.CACHE_AWARE)
        ask = self.held(pool, b=900)
        pool.targets.holds(pool["b"], {b"other": 64}, anew=True)
        assert set(pool.targets.holders) == {b"other"}
        assert Counter(pool.chosen(3, ask)) == {"a": 1, "b": 1, "c": 1}

    def test_without_it_the_highest_hit_rate_is_chosen_if_it_is_high_enough(self) -> None:
        pool = Pool(Strategy.CACHE_AWARE, min_cache_hit_rate=0.3)
        for model, rate in (("a", 0.2), ("b", 0.6), ("c", 0.4)):
            pool[model].caches(rate)
        assert pool.chosen(3) == "bbb"
        for model in "bc":
            pool[model].caches(0.29)
        works(pool["b"], 2)
        assert set(pool.chosen(4)) == {"a", "c"}, "by load"

    def test_who_has_just_answered_has_no_work_though_its_worker_has_not_said_so_yet(self) -> None:
        pool = Pool(Strategy.LEAST_LOADED)
        for model in "abc":
            pool[model].began()
            pool[model].tells_work(1)
        pool["c"].ended()
        assert pool.chosen() == "c"
        pool["c"].tells_work(3)
        assert pool.chosen() in "ab", "other gateways' requests are told, too"

    def test_the_highest_hit_rate_draws_no_crowd(self) -> None:
        pool = Pool(Strategy.CACHE_AWARE)
        pool["b"].caches(0.9)
        works(pool["b"], 1)
        assert pool.chosen() in "ac"

    def test_the_highest_hit_rate_of_a_model_that_must_be_loaded_says_nothing(self) -> None:
        pool = Pool(Strategy.CACHE_AWARE)
        pool["b"].caches(0.9)
        pool["b"].says(warm=False, lanes=16, told=0, cells=0.0)
        assert set(pool.chosen(4)) == {"a", "c"}

    def test_without_optimization_load_decides(self) -> None:
        pool = Pool(Strategy.CACHE_AWARE, enable_cache_optimization=False)
        pool["b"].caches(0.9)
        ask = self.held(pool, b=9000)
        works(pool["b"], 1)
        works(pool["c"], 2)
        assert pool.chosen(2, ask) == "aa"

    def test_who_is_no_candidate_is_not_chosen_for_what_it_holds(self) -> None:
        pool = Pool(Strategy.CACHE_AWARE)
        ask = self.held(pool, b=9000)
        pool.renewed([pool["a"], pool["c"]])
        assert set(pool.chosen(4, ask)) == {"a", "c"}


class TestQuotaAware:
    def test_who_has_most_left_is_chosen(self) -> None:
        pool = Pool(Strategy.QUOTA_AWARE)
        for model, used in (("a", 0.5), ("b", 0.2), ("c", 0.7)):
            limited(pool[model], used)
        assert pool.chosen(2) == "bb"

    def test_past_its_first_soft_limit_a_model_comes_after_all_others(self) -> None:
        pool = Pool(Strategy.QUOTA_AWARE)
        limited(pool["a"], 0.10, late=True)
        limited(pool["b"], 0.79)
        limited(pool["c"], 0.78)
        assert pool.chosen() == "c"
        limited(pool["b"], 0.85, late=True)
        limited(pool["c"], 0.90, late=True)
        assert pool.chosen() == "a"


class TestRandom:
    def test_all_have_the_same_chance(self) -> None:
        pool = Pool(Strategy.RANDOM, models=5)
        assert chi_square_fits(Counter(pool.chosen(10_000)), dict.fromkeys("abcde", 0.2))


class TestWeightedRandom:
    def test_weights_are_chances(self) -> None:
        pool = Pool(Strategy.WEIGHTED_RANDOM, model_weights={"a": 70, "b": 25, "c": 5})
        assert chi_square_fits(Counter(pool.chosen(10_000)), {"a": 0.7, "b": 0.25, "c": 0.05})

    def test_who_is_not_named_is_never_drawn(self) -> None:
        assert set(Pool(Strategy.WEIGHTED_RANDOM, model_weights={"a": 1, "c": 0}).chosen(100)) == {"a"}

    def test_without_weights_scores_are_chances(self) -> None:
        pool = Pool(Strategy.WEIGHTED_RANDOM)
        pool["a"].caches(1.0)  # 0.4 + 0.4 + 0.2
        works(pool["b"], 8)  # 0.4 · 0.5 + 0.2
        limited(pool["c"], 1.0)  # 0.4
        scores = {"a": 1.0, "b": 0.4, "c": 0.4}
        expected = {model: score / 1.8 for model, score in scores.items()}
        assert chi_square_fits(Counter(pool.chosen(10_000)), expected)

    def test_where_all_candidates_of_a_request_have_no_weight_scores_decide(self) -> None:
        assert set(Pool(Strategy.WEIGHTED_RANDOM, model_weights={"elsewhere": 1}).chosen(100)) == set("abc")


def served(pool: Pool, seconds: Callable[[str], float], requests: int, together: int = 1) -> str:
    """The models of so many requests, ``together`` at a time, each of which takes its model ``seconds``."""
    models, running = "", deque[Target]()
    for _ in range(requests):
        target = pool.strategy.choose(ASK)
        target.began()
        running.append(target)
        models += target.version.model
        if len(running) >= together:
            done = running.popleft()
            done.ended()
            done.answered(seconds(done.version.model))
    while running:
        running.popleft().ended()
    return models


class TestLatencyBased:
    def test_the_quickest_gets_nearly_all(self) -> None:
        pool = Pool(Strategy.LATENCY_BASED)
        counts = Counter(served(pool, {"a": 0.5, "b": 0.1, "c": 0.3}.__getitem__, 400))
        assert counts["b"] > 300
        assert counts["a"] < counts["c"], "the slower, the more rarely it is tried"

    @pytest.mark.parametrize("models", ["ab", "abc", "abcd"])
    @pytest.mark.parametrize("quick", [0.05, 0.1, 0.2])
    def test_a_changed_best_is_found_within_50_requests(self, models: str, quick: float) -> None:
        pool = Pool(Strategy.LATENCY_BASED, models=len(models))
        noise = random.Random(5)
        latency = dict.fromkeys(models, 1.0) | {"a": 0.4}
        served(pool, lambda model: latency[model] * noise.uniform(0.8, 1.25), 500)
        latency["b"] = quick
        found = served(pool, lambda model: latency[model] * noise.uniform(0.8, 1.25), 60)
        assert Counter(found[50:])["b"] >= 7, found

    def test_a_best_that_has_become_slow_is_left_at_once(self) -> None:
        pool = Pool(Strategy.LATENCY_BASED, models=2)
        latency = {"a": 0.1, "b": 0.2}
        served(pool, latency.__getitem__, 100)
        latency["a"] = 5.0
        assert Counter(served(pool, latency.__getitem__, 30))["a"] <= 5

    def test_equals_share_the_work(self) -> None:
        pool = Pool(Strategy.LATENCY_BASED)
        counts = Counter(served(pool, lambda _: 0.2, 300, together=8))
        assert min(counts.values()) > 80

    def test_what_was_never_tried_is_tried_but_not_by_all_at_once(self) -> None:
        pool = Pool(Strategy.LATENCY_BASED)
        pool["a"].answered(0.1)
        pool["b"].answered(0.1)
        chosen = []
        for _ in range(8):
            chosen.append(pool.strategy.choose(ASK))
            chosen[-1].began()
        assert chosen.count(pool["c"]) == 1

    def test_what_must_be_loaded_is_asked_when_nothing_is_ready(self) -> None:
        pool = Pool(Strategy.LATENCY_BASED, models=2)
        pool["a"].says(warm=False, lanes=1, told=0, cells=0.0)
        assert set(served(pool, lambda _: 3.0, 100)) == {"b"}
        pool["b"].says(warm=False, lanes=1, told=0, cells=0.0)
        assert set(pool.chosen(4)) == {"a", "b"}


class TestAffinityBased:
    def ask(self, session: str, now: float) -> Ask:
        return Ask(model="auto", session=session, now=now)

    def test_a_session_stays_for_as_long_as_it_comes_again_in_time(self) -> None:
        pool = Pool(Strategy.AFFINITY_BASED, models=5, affinity_timeout_sec=300)
        sessions = [f"s{number}" for number in range(200)]
        first = {session: pool.chosen(1, self.ask(session, 0.0)) for session in sessions}
        assert len(set(first.values())) == 5
        for now in (299.0, 598.0, 897.0):
            pool.renewed(list(reversed(pool.all)) if now == 598.0 else pool.all)
            assert {session: pool.chosen(1, self.ask(session, now)) for session in sessions} == first

    def test_it_stays_when_a_model_comes_and_after_its_timeout_it_goes_where_rendezvous_says(self) -> None:
        pool = Pool(Strategy.AFFINITY_BASED, models=5, affinity_timeout_sec=300)
        sessions = [f"s{number}" for number in range(200)]
        pool.renewed(pool.all[:4])
        first = {session: pool.chosen(1, self.ask(session, 0.0)) for session in sessions}
        pool.renewed(pool.all)
        assert {session: pool.chosen(1, self.ask(session, 300.0)) for session in sessions} == first
        later = {session: pool.chosen(1, self.ask(session, 601.0)) for session in sessions}
        moved = {session for session in sessions if later[session] != first[session]}
        assert 20 < len(moved) < 60 and {later[session] for session in moved} == {"e"}

    def test_it_moves_when_its_model_can_not_answer_and_the_others_stay(self) -> None:
        pool = Pool(Strategy.AFFINITY_BASED, models=5)
        sessions = [f"s{number}" for number in range(100)]
        first = {session: pool.chosen(1, self.ask(session, 0.0)) for session in sessions}
        pool.renewed(pool.all[1:])
        later = {session: pool.chosen(1, self.ask(session, 1.0)) for session in sessions}
        assert all((later[session] == home) is (home != "a") for session, home in first.items())

    def test_without_a_session_it_goes_to_the_least_loaded(self) -> None:
        pool = Pool(Strategy.AFFINITY_BASED)
        works(pool["a"], 3)
        works(pool["b"], 2)
        assert pool.chosen(2) == "cc"


def test_a_version_that_is_gone_is_told_of_no_more() -> None:
    targets = Targets()
    kept, gone = (targets.of(version) for version in (a_version("kept", 1), a_version("gone", 2)))
    for target in (kept, gone):
        targets.holds(target, {b"x": 64}, added=(b"x",))
    targets.retain([kept.version])
    assert targets.holders == {b"x": (kept,)} and targets.find(2) is None
    again: Version = a_version("gone", 2)
    assert targets.of(again) is not gone
