"""What is told of a decision that is not made, and who is asked when one can't answer."""

from typing import Any, ClassVar

import pytest

from registry.catalogue import Allowed, Health
from registry.errors import ModelNotFound, Unavailable
from routing.ask import Ask
from routing.breaker import FAILURES, FIRST_SECONDS
from routing.config import Strategy
from tests.catalogue import a_model, a_version
from tests.unit.routing.test_router import a_router, all_asked, one, routed, three, two


def test_every_candidate_has_its_score_and_everybody_else_the_reason_why_not() -> None:
    router = a_router(one, two, a_model("off", 7, enabled=False), strategy="least_loaded")
    explained = router.explain(Ask(model="auto"))
    assert (explained.asked, explained.strategy) == ("auto", "least_loaded")
    assert {each.model for each in explained.candidates} == {"one", "two"}
    assert all("loaded" in each.why for each in explained.candidates)
    assert [(each.model, each.reason) for each in explained.refused] == [("off", "is disabled")]
    assert explained.chosen == "one@1.0.0" and explained.fallbacks == ("two@1.0.0",)


@pytest.mark.parametrize("strategy", Strategy)
def test_it_changes_nothing(strategy: Strategy) -> None:
    router, other = (a_router(one, two, three, strategy=strategy, model_weights={"two": 1}) for _ in range(2))
    ask = Ask(model="auto", session="s", now=1.0)
    for _ in range(5):
        foretold = [router.explain(ask).chosen for _ in range(3)]
        chosen = router.route(ask).version.name
        if foretold[0] is not None:
            assert foretold == [chosen] * 3
            assert other.route(ask).version.name == chosen


def test_where_nobody_can_answer_it_says_what_the_client_is_told() -> None:
    explained = a_router(a_model("off", 7, enabled=False)).explain(Ask(model="auto"))
    assert explained.chosen is None and "'off' is disabled" in explained.error


class TestAnAbTest:
    TEST: ClassVar[dict[str, Any]] = {
        "ab_test_enabled": True,
        "ab_test_model_a": "one",
        "ab_test_model_b": "two",
        "ab_test_split": 0.7,
    }

    def test_is_explained_by_its_variants_with_their_shares_and_nobody_else_is_a_candidate(self) -> None:
        explained = a_router(one, two, three, **self.TEST).explain(Ask(model="auto"))
        assert (explained.chosen, explained.variant) == (None, ""), "it would be drawn"
        assert [(each.model, round(each.score, 9)) for each in explained.candidates] == [("one", 0.7), ("two", 0.3)]
        assert "variant B of the A/B test, which gets 30.0% of the requests" in explained.candidates[1].why
        assert [(each.model, each.reason) for each in explained.refused] == [("three", "is no variant of the A/B test")]

    @pytest.mark.parametrize("session", [f"s{number}" for number in range(10)])
    def test_is_foretold_for_a_session_which_keeps_to_its_variant(self, session: str) -> None:
        router = a_router(one, two, three, **self.TEST)
        ask = Ask(model="auto", session=session)
        explained, decided = router.explain(ask), router.route(ask)
        assert (explained.chosen, explained.variant) == (decided.version.name, decided.variant)

    def test_that_mirrors_is_answered_by_a(self) -> None:
        explained = a_router(one, two, **self.TEST, ab_test_mirror=True).explain(Ask(model="auto"))
        assert (explained.chosen, explained.variant) == ("one@1.0.0", "A")
        assert "copies of 30.0% of the requests" in explained.candidates[1].why

    def test_is_answered_by_the_other_variant_while_one_can_not(self) -> None:
        sick = a_model("two", a_version("two", 2, health=Health.UNHEALTHY))
        explained = a_router(one, sick, three, **self.TEST).explain(Ask(model="auto"))
        assert (explained.chosen, [each.model for each in explained.candidates]) == ("one@1.0.0", ["one"])
        assert {each.model: each.reason for each in explained.refused}.keys() == {"two", "three"}

    def test_has_each_variant_answered_for_by_the_other_one_first(self) -> None:
        router = a_router(one, two, three, **self.TEST | {"ab_test_model_a": "three"})
        variants = {"three", "two"}
        for session in map(str, range(10)):
            ask = Ask(model="auto", session=session)
            assert set(all_asked(router, ask)[:2]) == variants
            assert router.explain(ask).fallbacks[1] == "one@1.0.0"
        for model in (one, two, three):
            assert model.promoted is not None
            router.targets.of(model.promoted).says(warm=True, lanes=16, told=0, cells=0.0)
        decision = router.route(Ask(model="auto"))
        other = router.at_hand(Ask(model="auto"), decision, {decision.version.pk})
        assert other is not None and {other.model, decision.version.model} == variants

    @pytest.mark.parametrize("without", [{"ab_test_mirror": True}, {"ab_test_split": 1.0}])
    def test_asks_no_b_first_that_gets_no_requests(self, without: dict[str, Any]) -> None:
        router = a_router(one, two, three, **self.TEST | without)
        assert all_asked(router, Ask(model="auto")) == ["one", "three", "two"]

    def test_has_no_say_while_neither_variant_can_answer(self) -> None:
        sick = (a_model(name, a_version(name, pk, health=Health.UNHEALTHY)) for name, pk in (("one", 1), ("two", 2)))
        explained = a_router(*sick, three, **self.TEST).explain(Ask(model="auto"))
        assert (explained.chosen, [each.model for each in explained.candidates]) == ("three@1.0.0", ["three"])


def test_a_named_model_is_explained_too() -> None:
    explained = a_router(one, two, model_fallbacks={"one": ("two",)}).explain(Ask(model="one"))
    assert (explained.strategy, explained.chosen, explained.fallbacks) == ("named", "one@1.0.0", ("two@1.0.0",))
    assert "does not exist" in a_router(one).explain(Ask(model="nope")).error


def test_candidates_come_first_then_the_routes_fallbacks_and_last_the_default_model() -> None:
    default = a_model("default", 8, is_default=True)
    doubtful = a_model("doubtful", a_version("doubtful", 9, health=Health.UNKNOWN))
    router = a_router(one, two, three, default, doubtful, candidates=("one", "doubtful"), fallback_models=("three",))
    assert all_asked(router, Ask(model="auto")) == ["one", "doubtful", "three", "default"]


def test_a_route_without_any_candidate_is_answered_by_its_fallbacks_and_last_by_the_default_model() -> None:
    off = a_model("off", 7, enabled=False)
    default = a_model("default", 8, is_default=True)
    ask = Ask(model="drafts")
    drafts = {"drafts": {"candidates": ("off",), "fallback_models": ("three",)}}
    router = a_router(off, two, three, default, routes=drafts)
    assert all_asked(router, ask) == ["three", "default"]
    assert (routed(router, "drafts").strategy, routed(router, "drafts").candidates) == ("cache_aware", 0)
    explained = router.explain(ask)
    assert (explained.chosen, explained.fallbacks, explained.error) == ("three@1.0.0", ("default@1.0.0",), "")
    assert ("off", "is disabled") in [(each.model, each.reason) for each in explained.refused]
    assert all_asked(a_router(off, two, default, routes={"drafts": {"candidates": ("off",)}}), ask) == ["default"]


def test_a_warm_only_route_loads_its_own_fallbacks_and_not_the_default_model() -> None:
    default = a_model("default", 8, is_default=True)
    with pytest.raises(Unavailable, match="would have to be loaded"):
        routed(a_router(one, default, warm_only=True))
    router = a_router(one, two, default, warm_only=True, candidates=("one",), fallback_models=("two",))
    assert all_asked(router, Ask(model="auto")) == ["two"]
    assert default.promoted is not None
    router.targets.of(default.promoted).says(warm=True, lanes=16, told=0, cells=0.0)
    assert all_asked(router, Ask(model="auto")) == ["two", "default"]


def test_a_route_falls_back_to_no_model_that_is_not_made_for_what_is_asked() -> None:
    embedder = a_model("embedder", a_version("embedder", 5, capabilities=frozenset({"embedding"})))
    router = a_router(a_model("default", 8, is_default=True), embedder, fallback_models=("default",))
    assert all_asked(router, Ask(model="auto", kind="embedding")) == ["embedder"]


def test_a_fallback_that_is_above_the_threshold_is_asked_after_those_that_are_not() -> None:
    router = a_router(one, two, three, max_load_threshold=0.5)
    for model, told in ((one, 0), (two, 12), (three, 7)):
        assert model.promoted is not None
        router.targets.of(model.promoted).says(warm=True, lanes=16, told=told, cells=0.0)
    assert all_asked(router, Ask(model="auto")) == ["one", "three", "two"]


def test_at_hand_is_the_least_loaded_other_candidate_that_is_ready_and_below_the_threshold() -> None:
    router = a_router(one, two, three, max_load_threshold=0.5)
    ask = Ask(model="auto")

    def at_hand(*tried: int) -> str | None:
        version = router.at_hand(ask, router.route(ask), tried)
        return None if version is None else version.model

    assert at_hand() is None, "none is ready"
    for model, told in ((one, 1), (two, 3), (three, 12)):
        assert model.promoted is not None
        router.targets.of(model.promoted).says(warm=True, lanes=16, told=told, cells=0.0)
    pks = [model.promoted.pk for model in (one, two) if model.promoted is not None]
    assert (at_hand(), at_hand(pks[0]), at_hand(*pks)) == ("one", "two", None)
    assert router.at_hand(Ask(model="two"), router.route(Ask(model="two")), ()) is None, "it was named"


def test_a_named_model_falls_back_only_to_whom_its_operator_gave_it() -> None:
    assert all_asked(a_router(one, two), Ask(model="one")) == ["one"]
    router = a_router(one, two, three, model_fallbacks={"one": ("two",), "two": ("three",)})
    assert all_asked(router, Ask(model="one")) == ["one", "two", "three"]
    assert all_asked(router, Ask(model="one@1.0.0")) == ["one"], "who asks for a version wants no other"


def test_a_named_model_that_can_not_answer_is_answered_for_by_its_fallback() -> None:
    sick = a_model("sick", a_version("sick", 5, health=Health.UNHEALTHY))
    assert routed(a_router(sick, two, model_fallbacks={"sick": ("two",)}), "sick").version.model == "two"
    with pytest.raises(Unavailable):
        routed(a_router(sick, two), "sick")


def test_a_named_model_that_is_disabled_is_answered_for_by_its_fallback_too() -> None:
    off = a_model("off", 7, enabled=False)
    assert routed(a_router(off, two, model_fallbacks={"off": ("two",)}), "off").version.model == "two"
    for router, name in ((a_router(off, two), "off"), (a_router(off, model_fallbacks={"off": ("two",)}), "off@1.0.0")):
        with pytest.raises(ModelNotFound, match="disabled"):
            routed(router, name)


def test_why_a_named_model_can_not_answer_is_told_beside_who_answers_for_it() -> None:
    sick = a_model("sick", a_version("sick", 5, health=Health.UNHEALTHY))
    explained = a_router(sick, two, model_fallbacks={"sick": ("two",)}).explain(Ask(model="sick"))
    assert explained.chosen == "two@1.0.0"
    assert [(each.model, each.reason) for each in explained.refused] == [("sick", "is unhealthy")]
    secret = a_router(sick, two).explain(Ask(model="sick", allowed=Allowed(models=frozenset({"two"}))))
    assert secret.refused == (), "nothing is said of models that the client may not ask for"


def test_a_key_is_not_served_by_a_fallback_that_it_may_not_use() -> None:
    router = a_router(one, two, three, model_fallbacks={"one": ("two", "three")})
    allowed = Allowed(models=frozenset({"one", "three"}))
    assert all_asked(router, Ask(model="one", allowed=allowed)) == ["one", "three"]


def test_who_has_nothing_left_of_its_limits_comes_after_who_has() -> None:
    router = a_router(one, two)
    assert one.promoted is not None
    router.targets.of(one.promoted).limited(used=1.0, late=True, exhausted=True)
    assert {routed(router).version.model for _ in range(4)} == {"two"}
    assert "nothing left" in router.explain(Ask(model="auto")).refused[0].reason
    unchecked = a_router(one, two, enable_quota_checks=False)
    unchecked.targets.of(one.promoted).limited(used=1.0, late=True, exhausted=True)
    assert {routed(unchecked).version.model for _ in range(4)} == {"one", "two"}


def test_who_has_failed_several_requests_is_left_alone_while_another_can_answer() -> None:
    router = a_router(one, two)
    assert one.promoted is not None
    target = router.targets.of(one.promoted)
    for _ in range(FAILURES):
        target.breaker.failed(0.0)
    router.look_at_breakers([target], 0.0)
    assert {routed(router).version.model for _ in range(4)} == {"two"}
    assert "in a row" in router.explain(Ask(model="auto")).refused[0].reason
    assert all_asked(router, Ask(model="auto")) == ["two", "one"]
    router.look_at_breakers([target], FIRST_SECONDS)
    assert {routed(router).version.model for _ in range(4)} == {"one", "two"}


def test_a_long_request_goes_where_it_fits_and_one_that_fits_nowhere_anywhere() -> None:
    short, long = (
        a_model(name, a_version(name, pk, context_length=length))
        for name, pk, length in (("short", 1, 1000), ("long", 2, 8000))
    )
    router = a_router(short, long)
    assert {routed(router, tokens=tokens).version.model for tokens in (10, 1000) for _ in range(2)} == {"short", "long"}
    assert {routed(router, tokens=5000).version.model for _ in range(4)} == {"long"}
    assert {routed(router, tokens=50_000).version.model for _ in range(4)} == {"short", "long"}


def test_a_route_has_its_own_candidates_and_strategy() -> None:
    router = a_router(one, two, three, routes={"pair": {"candidates": ("two", "three"), "strategy": "random"}})
    decisions = [routed(router, "pair") for _ in range(40)]
    assert {each.version.model for each in decisions} == {"two", "three"}
    assert {(each.asked, each.strategy) for each in decisions} == {("pair", "random")}


def test_a_warm_only_route_loads_nothing() -> None:
    router = a_router(one, two, warm_only=True)
    with pytest.raises(Unavailable, match="would have to be loaded"):
        routed(router)
    assert two.promoted is not None
    router.targets.of(two.promoted).says(warm=True, lanes=16, told=0, cells=0.0)
    router.refresh()
    assert routed(router).version.model == "two"


def test_without_health_checks_health_does_not_filter() -> None:
    sick = a_model("sick", a_version("sick", 5, health=Health.UNHEALTHY))
    assert {routed(a_router(sick, enable_health_checks=False)).version.model} == {"sick"}
