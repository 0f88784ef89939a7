"""Who answers: the table of candidates, named models, and errors that teach."""

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.catalogue import Allowed, Catalogue, Health, Model
from registry.errors import ApiError, InvalidRequest, ModelNotFound, Unavailable
from routing.ask import Ask
from routing.config import Routing, Strategy, changed
from routing.decision import Decision
from routing.router import Router
from routing.table import Need, RouteTable
from routing.targets import Targets
from tests.catalogue import a_model, a_remote_model, a_version

BOTH = frozenset({"chat", "completion"})


def a_catalogue(*models: Model) -> Catalogue:
    default = next((model for model in models if model.is_default), None)
    default = default or next((model for model in models if model.starter), None)
    return Catalogue(revision=1, models={model.id: model for model in models}, default=default)


def a_router(*models: Model, failed: dict[int, str] | None = None, **routing: Any) -> Router:
    targets = Targets()
    config = changed(Routing(strategy=Strategy.ROUND_ROBIN), routing)
    return Router(RouteTable(a_catalogue(*models), failed or {}, targets), targets, config)


def routed(router: Router, model: str | None = "auto", kind: str = "chat", **request: Any) -> Decision:
    return router.route(Ask(model=model, kind=kind, **request))


def chosen(router: Router, requests: int = 1, **request: Any) -> Counter[str]:
    return Counter(routed(router, **request).version.model for _ in range(requests))


def refusal(router: Router, kind: type[ApiError], **request: Any) -> ApiError:
    with pytest.raises(kind) as caught:
        routed(router, **request)
    return caught.value


def all_asked(router: Router, ask: Ask) -> list[str]:
    """The models that are asked one after the other, when none can answer."""
    decision = router.route(ask)
    tried = {decision.version.pk: decision.version.model}
    while (version := router.fallback(ask, decision, tried)) is not None:
        tried[version.pk] = version.model
    return list(tried.values())


one = a_model("one", 1)
two = a_model("two", 2)
three = a_model("three", 3)


class TestAuto:
    @given(models=st.integers(1, 12), rounds=st.integers(1, 12))
    def test_round_robin_is_exact_among_the_candidates(self, models: int, rounds: int) -> None:
        router = a_router(*(a_model(f"m{pk}", pk) for pk in range(models)))
        assert chosen(router, models * rounds) == {f"m{pk}": rounds for pk in range(models)}

    def test_requests_that_alternate_between_two_pools_reach_all_of_both(self) -> None:
        router = a_router(one, two)
        counts: Counter[str] = Counter()
        for _ in range(4):
            counts[f"chat {routed(router, kind='chat').version.model}"] += 1
            counts[f"completion {routed(router, kind='completion').version.model}"] += 1
        assert set(counts.values()) == {2}

    def test_a_key_is_told_why_of_the_models_that_it_may_use_and_of_no_others(self) -> None:
        router = a_router(one, a_model("off", 4, enabled=False), a_model("secret", 5, enabled=False))
        told = refusal(router, Unavailable, allowed=Allowed(models=frozenset({"off"}))).message
        assert re.findall("'(.+?)'", told) == ["off"]
        told = refusal(router, Unavailable, allowed=Allowed(models=frozenset({"gone"}))).message
        assert told == "There is none of the models that this API key may use: have it allowed another."

    def test_round_robin_goes_on_where_it_was_when_the_table_is_replaced(self) -> None:
        router = a_router(one, two)
        first = routed(router, "auto", "chat").version
        for _ in range(2):
            router.renew(RouteTable(a_catalogue(one, two), {}, router.targets))
        assert routed(router, "auto", "chat").version is not first

    @pytest.mark.parametrize("worse", [Health.DEGRADED, Health.UNKNOWN, Health.LOADING])
    def test_healthy_models_come_before_others(self, worse: Health) -> None:
        doubtful = a_model("doubtful", a_version("doubtful", 9, health=worse))
        assert chosen(a_router(doubtful, one), 4) == {"one": 4}
        assert chosen(a_router(doubtful), 4) == {"doubtful": 4}

    def test_degraded_comes_before_unknown(self) -> None:
        degraded = a_model("degraded", a_version("degraded", 8, health=Health.DEGRADED))
        unknown = a_model("unknown", a_version("unknown", 9, health=Health.UNKNOWN))
        assert chosen(a_router(unknown, degraded), 2) == {"degraded": 2}

    def test_unhealthy_disabled_unpromoted_and_fileless_models_are_never_chosen(self) -> None:
        router = a_router(
            a_model("unhealthy", a_version("unhealthy", 5, health=Health.UNHEALTHY)),
            a_model("disabled", 6, enabled=False),
            a_model("unpromoted", 7, promoted=None),
            a_model("fileless", a_version("fileless", 8, files=())),
            one,
        )
        assert chosen(router, 5) == {"one": 5}

    def test_the_starter_answers_only_while_no_other_model_can(self) -> None:
        starter = a_model("starter", 9, starter=True)
        doubtful = a_model("doubtful", a_version("doubtful", 8, health=Health.UNKNOWN))
        assert chosen(a_router(starter, doubtful), 2) == {"doubtful": 2}
        assert chosen(a_router(starter), 2) == {"starter": 2}

    def test_a_model_whose_replica_failed_comes_after_even_the_starter(self) -> None:
        starter = a_model("starter", 9, starter=True)
        assert chosen(a_router(starter, one, failed={1: "out of memory"}), 2) == {"starter": 2}
        assert chosen(a_router(one, failed={1: "out of memory"}), 2) == {"one": 2}

    def test_an_alias_does_not_count_twice(self) -> None:
        alias = a_model("one:Q4", a_version("one", 1), alias_of="one")
        assert chosen(a_router(one, alias, two), 4) == {"one": 2, "two": 2}

    def test_capabilities_narrow_the_candidates(self) -> None:
        arabic = a_model("arabic", a_version("arabic", 9, capabilities=BOTH | {"arabic_nlp"}))
        assert chosen(a_router(one, arabic), 3, capabilities=frozenset({"arabic_nlp"})) == {"arabic": 3}

    def test_the_other_candidates_are_asked_when_those_before_could_not_answer(self) -> None:
        router = a_router(one, two, a_model("doubtful", a_version("doubtful", 9, health=Health.UNKNOWN)))
        assert all_asked(router, Ask(model="auto")) in (["one", "two", "doubtful"], ["two", "one", "doubtful"])


class TestNobody:
    def test_no_model_at_all(self) -> None:
        error = refusal(a_router(), Unavailable)
        assert error.code == "no_healthy_model"
        assert "models directory" in error.message

    def test_every_refused_model_is_named_with_its_reason(self) -> None:
        broken = a_model("broken", a_version("broken", 9, health=Health.UNHEALTHY, health_reason="truncated"))
        disabled = a_model("disabled", 6, enabled=False)
        error = refusal(a_router(broken, disabled), Unavailable)
        assert error.code == "no_healthy_model"
        assert "'broken' is unhealthy (truncated)" in error.message
        assert "'disabled' is disabled" in error.message
        assert error.retry_after is not None

    def test_a_capability_that_no_sound_model_has(self) -> None:
        error = refusal(a_router(one), Unavailable, capabilities=frozenset({"arabic_nlp"}))
        assert error.code == "capability_unavailable"
        assert "'one' lacks arabic_nlp" in error.message

    def test_embeddings_without_a_model_made_for_them_say_that_a_chat_model_can(self) -> None:
        with pytest.raises(Unavailable, match="A chat model embeds when it is named"):
            routed(a_router(one), "auto", "embedding")

    def test_a_broken_file_of_which_nothing_is_known_is_not_told_to_lack_chat(self) -> None:
        empty = frozenset[str]()
        broken = a_version("broken", 9, health=Health.UNHEALTHY, health_reason="not a GGUF", capabilities=empty)
        error = refusal(a_router(a_model("broken", broken)), Unavailable)
        assert error.code == "no_healthy_model"
        assert "not a GGUF" in error.message

    def test_a_hundred_refusals_are_told_shortly(self) -> None:
        disabled = (a_model(f"m{pk}", pk, enabled=False) for pk in range(100))
        error = refusal(a_router(*disabled), Unavailable)
        assert "and 95 more" in error.message


class TestNamed:
    def test_an_id_means_its_promoted_version(self) -> None:
        new, old = a_version("m", 2, version="2.0.0"), a_version("m", 1)
        router = a_router(a_model("m", new, old, promoted=old))
        decision = routed(router, "m", "chat")
        assert (decision.version, decision.strategy, decision.candidates) == (old, "named", 1)
        assert routed(router, "m@2.0.0", "chat").version == new

    def test_ids_may_hold_slashes_and_colons(self) -> None:
        router = a_router(a_model("org/m:Q4_K_M", 1))
        assert routed(router, "org/m:Q4_K_M@1.0.0", "chat").version.pk == 1

    def test_an_unknown_id_is_answered_with_the_nearest(self) -> None:
        error = refusal(a_router(a_model("Llama-3.3-70B", 1)), ModelNotFound, model="lama-3.3")
        assert "Did you mean 'Llama-3.3-70B'?" in error.message
        assert (error.status, error.code, error.param) == (404, "model_not_found", "model")

    def test_a_misspelt_route_is_answered_with_the_nearest_that_the_key_may_use(self) -> None:
        router = a_router(one, routes={"drafts": {}})
        assert "Did you mean 'drafts'?" in refusal(router, ModelNotFound, model="draft").message
        others = Allowed(routes=frozenset({"auto"}))
        assert "drafts" not in refusal(router, ModelNotFound, model="draft", allowed=others).message

    def test_an_unknown_id_without_likeness_gets_no_guess(self) -> None:
        assert "Did you mean" not in refusal(a_router(one), ModelNotFound, model="gpt-4o").message

    @pytest.mark.parametrize("name", ["one@9.9.9", "one@", "one@1.0.0@1.0.0"])
    def test_an_unknown_version_is_answered_with_the_known_ones(self, name: str) -> None:
        error = refusal(a_router(one), ModelNotFound, model=name)
        assert "It has: 1.0.0." in error.message

    def test_a_disabled_model_is_not_found_and_the_message_says_why(self) -> None:
        router = a_router(a_model("off", 1, enabled=False))
        assert "disabled" in refusal(router, ModelNotFound, model="off").message
        assert "disabled" in refusal(router, ModelNotFound, model="off@1.0.0").message

    def test_an_unhealthy_model_is_unavailable_with_its_reason(self) -> None:
        sick = a_version("sick", 1, health=Health.UNHEALTHY, health_reason="the file is truncated")
        error = refusal(a_router(a_model("sick", sick)), Unavailable, model="sick")
        assert error.code == "no_healthy_model"
        assert "the file is truncated" in error.message

    def test_a_model_without_a_promoted_version_says_so(self) -> None:
        router = a_router(a_model("new", 1, promoted=None))
        assert "promoted" in refusal(router, Unavailable, model="new").message
        assert routed(router, "new@1.0.0", "chat").version.pk == 1

    def test_an_embedding_model_asked_to_chat_says_what_it_does(self) -> None:
        embedder = a_model("embedder", a_version("embedder", 1, capabilities=frozenset({"embedding"})))
        error = refusal(a_router(embedder), InvalidRequest, model="embedder")
        assert error.message == "The model 'embedder' does not do chat completions; it does: embedding."
        assert (error.param, error.code) == ("model", "capability_unavailable")

    def test_a_model_that_writes_text_embeds_for_who_names_it_and_never_for_auto(self) -> None:
        embedder = a_model("embedder", a_version("embedder", 5, capabilities=frozenset({"embedding"})))
        router = a_router(one, embedder)
        assert routed(router, "one", "embedding").version.pk == 1
        assert {routed(router, "auto", "embedding").version.pk for _ in range(4)} == {5}

    def test_a_named_model_that_lacks_a_wanted_capability_is_refused(self) -> None:
        error = refusal(a_router(one), InvalidRequest, model="one", capabilities=frozenset({"arabic_nlp"}))
        assert error.param == "capabilities"
        assert '"auto"' in error.message

    def test_a_model_whose_replica_failed_can_still_be_asked_for(self) -> None:
        assert routed(a_router(one, failed={1: "crashed"}), "one").version.pk == 1


class TestDefault:
    def test_a_request_without_model_goes_to_the_operators_default(self) -> None:
        default = a_model("default", 9, is_default=True)
        assert chosen(a_router(one, default, two), 3, model=None) == {"default": 3}

    def test_without_a_chosen_default_it_goes_to_auto(self) -> None:
        starter = a_model("starter", 9, starter=True)
        assert chosen(a_router(starter, one), 2, model=None) == {"one": 2}
        assert chosen(a_router(starter), 2, model=None) == {"starter": 2}


@given(
    healths=st.lists(st.sampled_from(Health), min_size=1, max_size=8),
    failed=st.sets(st.integers(0, 7)),
    starters=st.sets(st.integers(0, 7)),
)
def test_whoever_is_chosen_is_usable_and_none_better_was_passed_over(
    healths: list[Health], failed: set[int], starters: set[int]
) -> None:
    models = [
        a_model(f"m{pk}", a_version(f"m{pk}", pk, health=health), starter=pk in starters)
        for pk, health in enumerate(healths)
    ]
    table = RouteTable(a_catalogue(*models), dict.fromkeys(failed, "crashed"))
    need = Need(capabilities=frozenset({"chat"}))
    ranked = table.ranked(Routing(), need)
    usable = [pk for pk, health in enumerate(healths) if health is not Health.UNHEALTHY]
    pool = {target.version.pk for rank, target in ranked if rank == ranked[0][0]}
    assert pool <= set(usable) == {target.version.pk for _, target in ranked}
    assert bool(pool) == bool(usable)
    assert pool | {int(refused.model[1:]) for refused in table.refusals(Routing(), need)} == set(range(len(models)))
    if any(pk not in failed for pk in usable):
        assert not pool & failed


def test_a_decision_is_one_value_that_logs_and_headers_share() -> None:
    decision = routed(a_router(one), None, "completion")
    assert decision == Decision(asked="auto", strategy="round_robin", version=decision.version)


def test_a_backend_elsewhere_is_a_candidate_like_any_other_and_always_warm() -> None:
    router = a_router(one, a_remote_model("away", 2))
    assert chosen(router, 4) == {"one": 2, "away": 2}
    assert routed(router, "away@1.0.0").version.remote
    warm_only = a_router(one, a_remote_model("away", 2), warm_only=True)
    assert chosen(warm_only, 2) == {"away": 2}


def test_a_backend_elsewhere_is_not_full_with_its_first_request() -> None:
    router = a_router(a_remote_model("away", 1))
    target = router.targets.of(routed(router).version)
    target.began()
    assert 0 < target.load < 0.1
