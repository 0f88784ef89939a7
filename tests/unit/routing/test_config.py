"""What operators set for routing: partial changes, and what makes no sense."""

from typing import Any

import pytest

from registry.errors import InvalidRequest
from routing.config import Rollout, Routing, Rules, Strategy, changed, models_named, with_shares, without

TEST = {"ab_test_enabled": True, "ab_test_model_a": "a", "ab_test_model_b": "b"}


def refused(**changes: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        changed(Routing(), changes)
    return caught.value


def test_what_is_not_named_stays() -> None:
    config = changed(Routing(), {"strategy": "random", "max_retries": 1})
    config = changed(config, {"max_load_threshold": 0.5})
    assert (config.strategy, config.max_retries, config.max_load_threshold) == (Strategy.RANDOM, 1, 0.5)


def test_a_routes_rules_are_changed_one_by_one_and_a_route_can_be_removed() -> None:
    config = changed(Routing(), {"routes": {"fast": {"strategy": "latency_based"}, "cheap": {}}})
    config = changed(config, {"routes": {"fast": {"candidates": ["a"]}, "cheap": None}})
    assert config.routes == {"fast": Rules(strategy=Strategy.LATENCY_BASED, candidates=("a",))}
    assert config.all_rules() == {"auto": config, **config.routes}


def test_a_rollouts_fields_are_changed_one_by_one() -> None:
    config = changed(Routing(), {**TEST, "ab_test_rollout": {"step_seconds": 5}})
    config = changed(config, {"ab_test_rollout": {"step_requests": 7}})
    assert config.ab_test_rollout == Rollout(step_seconds=5, step_requests=7)
    assert changed(config, {"ab_test_rollout": None}).ab_test_rollout is None


def test_an_ab_test_needs_two_models() -> None:
    assert refused(ab_test_enabled=True).param == "ab_test_model_a"
    assert refused(ab_test_enabled=True, ab_test_model_a="a").param == "ab_test_model_b"
    both = refused(ab_test_enabled=True, ab_test_model_a="a", ab_test_model_b="a")
    assert both.param == "ab_test_model_b" and "'a'" in both.message


def test_weights_that_sum_to_zero_and_an_empty_route_leave_nobody() -> None:
    assert refused(model_weights={"a": 0.0, "b": 0.0}).param == "model_weights"
    assert refused(candidates=()).param == "candidates"
    assert refused(routes={"fast": {"candidates": ()}}).param == "routes.fast.candidates"


def test_fallbacks_may_not_go_in_a_circle() -> None:
    fault = refused(model_fallbacks={"a": ("x", "b"), "b": ("c",), "c": ("a",)})
    assert fault.param == "model_fallbacks" and "a → b → c → a" in fault.message
    assert "a → a" in refused(model_fallbacks={"a": ("a",)}).message
    changed(Routing(), {"model_fallbacks": {"a": ("b", "c"), "b": ("c",)}})


def test_a_circle_of_many_models_is_found() -> None:
    circle = {str(number): (str((number + 1) % 5000),) for number in range(5000)}
    assert "circle" in refused(model_fallbacks=circle).message


def test_the_default_route_is_no_other_one() -> None:
    assert refused(routes={"auto": {}}).param == "routes"


def test_steps_of_a_rollout_ascend() -> None:
    assert "0.5, 0.2" in refused(**TEST, ab_test_rollout={"steps": (0.5, 0.2)}).message
    for steps in ((), (0.0, 1.0), (0.5, 1.1)):
        assert "above 0 up to 1" in refused(**TEST, ab_test_rollout={"steps": steps}).message


def test_nothing_is_rolled_out_of_a_mirror_or_without_a_test() -> None:
    assert "A answers everything" in refused(**TEST, ab_test_mirror=True, ab_test_rollout={}).message
    assert refused(ab_test_rollout={}).param == "ab_test_rollout"
    assert refused(routes={"fast": {"ab_test_rollout": {}}}).param == "routes.fast.ab_test_rollout"


def test_a_rollout_waits_while_its_test_is_off() -> None:
    config = changed(Routing(), {**TEST, "ab_test_rollout": {"step_seconds": 5}})
    off = changed(config, {"ab_test_enabled": False})
    assert off.ab_test_rollout == config.rollout_running and off.rollout_running is None
    assert changed(off, {"ab_test_enabled": True}) == config
    assert without(config, {"a"}).rollout_running is None


def test_a_rollouts_share_goes_before_the_split() -> None:
    config = with_shares(
        changed(Routing(), {**TEST, "routes": {"fast": TEST, "cheap": TEST}}), {"auto": 0.25, "fast": 1.0}
    )
    assert [config.all_rules()[route].ab_test_split for route in ("auto", "fast", "cheap")] == [0.75, 0.0, 0.5]


def test_each_field_that_names_a_model_is_known() -> None:
    config = changed(
        Routing(),
        {
            "candidates": ("a",),
            "ab_test_model_a": "b",
            "routes": {"fast": {"fallback_models": ("c",), "model_weights": {"d": 1.0}}},
            "model_fallbacks": {"e": ("f",)},
        },
    )
    assert set(models_named(config)) == {
        ("candidates", "a"),
        ("ab_test_model_a", "b"),
        ("routes.fast.fallback_models", "c"),
        ("routes.fast.model_weights", "d"),
        ("model_fallbacks", "e"),
        ("model_fallbacks", "f"),
    }


def test_models_that_are_gone_are_named_no_more_and_their_test_is_over() -> None:
    config = changed(
        Routing(),
        {
            "candidates": ("a", "gone"),
            "model_weights": {"a": 1.0, "gone": 2.0},
            "ab_test_enabled": True,
            "ab_test_model_a": "a",
            "ab_test_model_b": "gone",
            "model_fallbacks": {"gone": ("b",), "a": ("gone",)},
            "routes": {"other": {"candidates": ("gone",)}},
        },
    )
    left = without(config, {"a"})
    assert (left.candidates, left.model_weights, left.ab_test_enabled) == (("a",), {"a": 1.0}, False)
    assert left.model_fallbacks == {} and left.routes["other"].candidates == ()
