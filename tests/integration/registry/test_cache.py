"""The KV cache's configuration, shares and use in SQL."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from django.db import IntegrityError, connection, transaction

from registry import services as registry_services
from registry.cache import selectors, services
from registry.cache.configuration import GB, MB, CacheAllocation, Strategy
from registry.cache.services import UseCount
from registry.errors import Conflict, InvalidRequest, NotFound
from registry.models import CacheRevision, CacheShare, CacheUse, Model, Node, SharedPrompt
from tests.gguf_files import write_model

if TYPE_CHECKING:  # pytest loads its neighbour before Django is set up
    from tests.integration.registry.reading import Scan

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 3, 1, 12, 2, 30, tzinfo=UTC)


@pytest.fixture
def models(models_dir: Path, scan: "Scan") -> None:
    """``a``, ``b`` and a node that could load them."""
    for seed, name in enumerate(("a", "b")):
        write_model(models_dir / f"{name}.gguf", name=name, seed=seed)
    scan()
    registry_services.node_register(name="node-1", ram_budget_mb=1024, pid=1, disk_bytes=100 * GB)


def update(comment: str = "", **changes: Any) -> selectors.Configured:
    return services.cache_allocation_update(changes=changes, author="ada", comment=comment)


def shares(node: str = "node-1") -> dict[str, tuple[int, int]]:
    return {name: (share.ram_bytes, share.ssd_bytes) for name, share in selectors.cache_shares_load(node=node).items()}


def asked(tokens: int, *, requests: int = 1, cached: int = 0) -> UseCount:
    return UseCount(prompt_tokens=tokens, cached_tokens=cached, requests=requests)


# --- Revisions -------------------------------------------------------------------------------------------------------


def test_before_anybody_changed_it_the_configuration_is_the_defaults_as_revision_0() -> None:
    assert selectors.cache_configured_load() == selectors.Configured(revision=0, config=CacheAllocation())


def test_each_change_is_a_numbered_revision_with_its_author() -> None:
    assert update(allocation_strategy="dynamic", comment="why not").revision == 1
    assert update(global_cache_size_gb=10).revision == 2
    newest, first, defaults = selectors.cache_revisions_list()
    assert [row.number for row in (newest, first, defaults)] == [2, 1, 0]
    assert (first.author, first.comment) == ("ada", "why not")
    assert selectors.config_value(newest).allocation_strategy == Strategy.DYNAMIC


def test_what_changes_nothing_makes_no_revision() -> None:
    assert update(allocation_strategy="fair_share").revision == 0
    assert not CacheRevision.objects.exists()


def test_an_earlier_revision_is_restored_as_a_new_one() -> None:
    update(allocation_strategy="dynamic")
    update(allocation_strategy="proportional")
    restored = services.cache_allocation_restore(number=1, author="bob")
    assert (restored.revision, restored.config.allocation_strategy) == (3, "dynamic")
    assert CacheRevision.objects.get(number=3).comment == "restored from revision 1"
    assert services.cache_allocation_restore(number=0, author="bob").config == CacheAllocation()


def test_a_revision_that_is_not_there_cannot_be_restored() -> None:
    update(allocation_strategy="dynamic")
    with pytest.raises(NotFound, match="0 to 1"):
        services.cache_allocation_restore(number=7, author="bob")


def test_priorities_are_for_models_that_exist(models: None) -> None:
    with pytest.raises(InvalidRequest, match="Nearest") as refusal:
        update(model_priorities={"a": 3, "bb": 5})
    assert refusal.value.param == "model_priorities.bb"
    assert not CacheRevision.objects.exists()


def test_a_priority_under_an_alias_is_the_models_own(models: None) -> None:
    Model.objects.create(name="also-a", alias_of=Model.objects.get(name="a"))
    assert update(model_priorities={"also-a": 9}).config.model_priorities == {"a": 9}


def test_a_model_that_was_forgotten_stands_in_nobodys_way(models: None) -> None:
    update(model_priorities={"a": 3, "b": 7})
    Model.objects.get(name="b").delete()
    assert update(global_eviction_policy="lfu").config.model_priorities == {"a": 3}
    assert services.cache_allocation_restore(number=1, author="ada").config.model_priorities == {"a": 3}


@pytest.mark.parametrize("change", ["update", "delete"])
def test_sql_lets_nobody_rewrite_history(change: str) -> None:
    update(allocation_strategy="dynamic")
    row = CacheRevision.objects.filter(number=1)
    with pytest.raises(IntegrityError, match="history"), transaction.atomic():
        row.update(author="eve") if change == "update" else row.delete()


def test_sql_refuses_a_configuration_that_is_no_object() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        CacheRevision.objects.create(number=1, config=[])


# --- Shares ----------------------------------------------------------------------------------------------------------


def test_a_change_divides_anew_in_the_same_transaction(models: None) -> None:
    update(global_cache_ram_gb=0.5, global_cache_ssd_gb=10)
    assert shares() == {"a": (256 * MB, 5 * GB), "b": (256 * MB, 5 * GB)}
    with pytest.raises(RuntimeError), transaction.atomic():
        update(global_cache_ram_gb=0.25)
        assert shares()["a"][0] == 128 * MB
        raise RuntimeError
    assert shares()["a"][0] == 256 * MB


def test_each_node_is_divided_by_what_it_has(models: None) -> None:
    registry_services.node_register(name="small", ram_budget_mb=256, pid=2, disk_bytes=2 * GB)
    update(global_cache_ram_gb=0.5, global_cache_ssd_gb=1)
    assert shares("small") == {"a": (128 * MB, GB // 2), "b": (128 * MB, GB // 2)}
    small = selectors.cache_node_load(node="small")
    assert small is not None
    assert (small.sizes.ram.configured_bytes, small.sizes.ram.effective_bytes) == (GB // 2, 256 * MB)


def test_a_supervisor_gets_a_share_for_every_model_there_is_now(models: None, models_dir: Path, scan: "Scan") -> None:
    first = services.cache_node_current(node="node-1")
    write_model(models_dir / "c.gguf", name="c", seed=3)
    scan()
    Model.objects.filter(name="b").update(enabled=False)
    second = services.cache_node_current(node="node-1")
    assert first is not None and second is not None
    assert set(first.shares) == {"a", "b"}
    assert set(second.shares) == {"a", "c"}
    assert services.cache_node_current(node="unknown") is None


def test_what_generates_no_text_has_nothing_to_cache(models: None) -> None:
    Model.objects.get(name="a").versions.update(capabilities=["embedding"])
    Model.objects.create(name="alias", alias_of=Model.objects.get(name="b"))
    Model.objects.create(name="no-file")
    services.cache_rebalance()
    assert set(shares()) == {"b"}


def test_a_node_that_has_not_told_about_its_disk_is_taken_to_have_ours(models: None) -> None:
    Node.objects.update(disk_bytes=None)
    assert selectors.machine(Node.objects.get()).disk_bytes > 0


def test_a_heartbeat_tells_about_the_disk_and_without_one_it_stays_known(models: None) -> None:
    registry_services.node_heartbeat(name="node-1", disk_bytes=7 * GB)
    registry_services.node_heartbeat(name="node-1")
    assert Node.objects.get().disk_bytes == 7 * GB


def test_a_rebalance_that_finds_nothing_new_writes_nothing(models: None) -> None:
    assert services.cache_rebalance() == ["node-1"]
    computed = CacheShare.objects.get(model__name="a").computed_at
    assert services.cache_rebalance() == []
    assert CacheShare.objects.get(model__name="a").computed_at == computed


def test_use_moves_the_shares_of_proportional_and_dynamic_differently(models: None) -> None:
    now = datetime.now(tz=UTC)
    services.cache_use_add(counts={"a": asked(9_000)}, now=now - timedelta(hours=3))
    services.cache_use_add(counts={"b": asked(1_000)}, now=now)
    update(allocation_strategy="proportional", global_cache_ram_gb=1)
    a_of_day, b_of_day = shares()["a"][0], shares()["b"][0]
    update(allocation_strategy="dynamic")
    a_of_minutes, b_of_minutes = shares()["a"][0], shares()["b"][0]
    assert a_of_day > 4 * b_of_day
    assert b_of_minutes > 4 * a_of_minutes
    assert a_of_day + b_of_day == a_of_minutes + b_of_minutes == GB


def test_the_beat_divides_by_use_and_forgets_what_is_old(models: None) -> None:
    from registry.tasks import cache_rebalance

    now = datetime.now(tz=UTC)
    update(allocation_strategy="dynamic", global_cache_ram_gb=1)
    services.cache_use_add(counts={"a": asked(100)}, now=now - timedelta(days=2))
    services.cache_use_add(counts={"b": asked(100)}, now=now)
    cache_rebalance()
    assert shares()["b"][0] > shares()["a"][0]
    assert CacheUse.objects.count() == 1


@pytest.mark.parametrize("change", [{"ram_bytes": -1}, {"ssd_bytes": -1}])
def test_sql_refuses_a_share_of_less_than_nothing(models: None, change: dict[str, int]) -> None:
    services.cache_rebalance()
    with pytest.raises(IntegrityError), transaction.atomic():
        CacheShare.objects.update(**change)


# --- Use -------------------------------------------------------------------------------------------------------------


def test_use_is_summed_by_model_and_five_minutes(models: None) -> None:
    services.cache_use_add(counts={"a": asked(100, cached=40), "gone": asked(5)}, now=NOW)
    services.cache_use_add(counts={"a": asked(50, requests=2)}, now=NOW + timedelta(minutes=2))
    services.cache_use_add(counts={"a": asked(7)}, now=NOW + timedelta(minutes=3))
    rows = CacheUse.objects.order_by("bucket").values_list("prompt_tokens", "cached_tokens", "requests")
    assert list(rows) == [(150, 40, 3), (7, 0, 1)]
    assert CacheUse.objects.order_by("bucket")[0].bucket == NOW.replace(minute=0, second=0)


def test_what_was_asked_of_an_alias_is_the_models_own(models: None) -> None:
    Model.objects.create(name="also-a", alias_of=Model.objects.get(name="a"))
    services.cache_use_add(counts={"a": asked(1), "also-a": asked(2)}, now=NOW)
    assert CacheUse.objects.get().prompt_tokens == 3


def test_no_use_is_no_statement(models: None, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        services.cache_use_add(counts={"a": asked(0, requests=0)})


def test_use_is_forgotten_after_a_day(models: None) -> None:
    services.cache_use_add(counts={"a": asked(1)}, now=NOW)
    assert services.cache_use_prune(now=NOW + timedelta(hours=24)) == 0
    assert services.cache_use_prune(now=NOW + timedelta(hours=26)) == 1
    (use, _) = selectors.model_uses_load(now=NOW + timedelta(hours=26))
    assert use.day_prompt_tokens == 0


@pytest.mark.parametrize(
    "values",
    [
        {"bucket": NOW, "prompt_tokens": 1},
        {"bucket": NOW.replace(minute=0, second=0), "prompt_tokens": 1, "cached_tokens": 2},
        {"bucket": NOW.replace(minute=0, second=0), "requests": -1},
    ],
)
def test_sql_refuses_use_that_cannot_be(models: None, values: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        CacheUse.objects.create(model=Model.objects.get(name="a"), **values)


# --- Shared prompts --------------------------------------------------------------------------------------------------


def test_gateways_get_the_texts_of_enabled_prompts_to_the_letter() -> None:
    services.shared_prompt_create(name="support", text=" You help.\n")
    services.shared_prompt_create(name="draft", text="Not yet.", enabled=False)
    assert selectors.shared_prompts_load() == {" You help.\n"}
    services.shared_prompt_update(name="draft", enabled=True)
    services.shared_prompt_delete(name="support")
    assert selectors.shared_prompts_load() == {"Not yet."}


@pytest.mark.parametrize(("name", "text"), [("", "x"), ("a\nb", "x"), ("x" * 101, "x"), ("x", ""), ("x", " \n")])
def test_a_shared_prompt_needs_a_name_and_a_text(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest):
        services.shared_prompt_create(name=name, text=text)


def test_a_name_is_given_once() -> None:
    services.shared_prompt_create(name="support", text="x")
    with pytest.raises(Conflict):
        services.shared_prompt_create(name="support", text="y")


def test_sql_refuses_a_shared_prompt_that_says_nothing() -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        SharedPrompt.objects.create(name="x", text="")


# --- Announcements ---------------------------------------------------------------------------------------------------


@pytest.fixture
def heard(transactional_db: None, models: None, heard: Callable[[], list[str]]) -> Callable[[], list[str]]:
    """From when the models are there."""
    return heard


def test_supervisors_hear_of_a_change_and_gateways_need_not_load_again(heard: Callable[[], list[str]]) -> None:
    from registry.selectors import revision_read

    revision = revision_read()
    update(global_cache_ram_gb=0.5)
    assert set(heard()) == {"cache"}
    assert revision_read() == revision


def test_gateways_hear_of_new_default_limits(heard: Callable[[], list[str]]) -> None:
    from registry.selectors import revision_read

    revision = revision_read()
    update(per_model_quota={"hourly_token_limit": 5})
    assert "limits" in heard()
    assert revision_read() > revision
    update(per_model_quota={"hourly_token_limit": 5, "daily_token_limit": None}, global_cache_ram_gb=0.5)
    assert "limits" not in heard()


def test_only_shares_that_moved_are_announced(heard: Callable[[], list[str]]) -> None:
    services.cache_rebalance()
    assert set(heard()) == {"cache"}
    services.cache_rebalance()
    CacheShare.objects.update(why="says it otherwise", computed_at=NOW)
    services.cache_use_add(counts={"a": asked(5)})
    assert heard() == []


def test_gateways_hear_of_shared_prompts(heard: Callable[[], list[str]]) -> None:
    services.shared_prompt_create(name="support", text="x")
    assert heard() == ["keys"]
    services.shared_prompt_update(name="support", enabled=True)
    assert heard() == []
    services.shared_prompt_update(name="support", enabled=False)
    assert heard() == ["keys"]


def test_changes_at_once_wait_for_each_other_and_none_is_lost(heard: Callable[[], list[str]]) -> None:
    def change(gb: int) -> None:
        update(global_cache_ram_gb=gb)
        connection.close()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(change, range(1, 9)))
    assert sorted(CacheRevision.objects.values_list("number", flat=True)) == list(range(9))
    last = CacheRevision.objects.get(number=8).config["global_cache_ram_gb"]
    assert sum(ram for ram, _ in shares().values()) == min(last * GB, GB)
