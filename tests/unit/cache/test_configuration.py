"""A partial change of the cache's configuration, and what becomes of the three sizes that hang together."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.cache.configuration import CacheAllocation, PerModelQuota, Strategy, changed, without
from registry.errors import InvalidRequest

SIZES = ("global_cache_size_gb", "global_cache_ram_gb", "global_cache_ssd_gb")


def config(size: float | None = None, ram: float | None = None, ssd: float | None = None) -> CacheAllocation:
    return CacheAllocation(global_cache_size_gb=size, global_cache_ram_gb=ram, global_cache_ssd_gb=ssd)


def sizes(of: CacheAllocation) -> tuple[float | None, ...]:
    return tuple(getattr(of, name) for name in SIZES)


def test_what_is_not_named_stays() -> None:
    before = CacheAllocation(allocation_strategy=Strategy.DYNAMIC, model_priorities={"a": 3}, global_cache_size_gb=9)
    after = changed(before, {"global_eviction_policy": "lfu"})
    assert after == msgspec.structs.replace(before, global_eviction_policy="lfu")


def test_an_object_replaces_the_one_before() -> None:
    before = CacheAllocation(model_priorities={"a": 3}, per_model_quota=PerModelQuota(max_ram_mb=1))
    after = changed(before, {"model_priorities": {"b": 1}, "per_model_quota": {"max_ssd_gb": 2.5}})
    assert after.model_priorities == {"b": 1}
    assert after.per_model_quota == PerModelQuota(max_ssd_gb=2.5)


@pytest.mark.parametrize(
    ("before", "named", "after"),
    [
        (config(), {"size": 100}, (100, None, None)),
        (config(ram=20, ssd=80), {"size": 300}, (300, None, None)),
        (config(size=100), {"ram": 20}, (100, 20, None)),
        (config(size=100, ssd=80), {"ram": 30}, (None, 30, 80)),
        (config(size=100, ram=20), {"ram": 30}, (100, 30, None)),
        (config(ssd=80), {"ram": 30}, (None, 30, 80)),
        (config(), {"ram": 20, "ssd": 80}, (None, 20, 80)),
        (config(size=5), {"size": 100, "ram": 20}, (100, 20, None)),
        (config(ram=1, ssd=2), {"size": 100, "ssd": 20}, (100, None, 20)),
        (config(), {"size": 100, "ram": 20, "ssd": 80}, (None, 20, 80)),
        (config(ram=20, ssd=80), {"size": None}, (None, 20, 80)),
        (config(size=100, ram=20), {"size": None}, (None, 20, None)),
        (config(size=100, ram=20), {"ram": None}, (100, None, None)),
        (config(), {"ssd": 0}, (None, None, 0)),
    ],
)
def test_the_sizes_after_a_change(before: CacheAllocation, named: dict[str, Any], after: tuple[Any, ...]) -> None:
    changes = {f"global_cache_{name}_gb": value for name, value in named.items()}
    assert sizes(changed(before, changes)) == after


@pytest.mark.parametrize(
    ("before", "named", "param"),
    [
        (config(), {"size": 100, "ram": 20, "ssd": 70}, "global_cache_size_gb"),
        (config(), {"size": 100, "ram": 120}, "global_cache_ram_gb"),
        (config(size=100), {"ssd": 120}, "global_cache_ssd_gb"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(
    before: CacheAllocation, named: dict[str, Any], param: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        changed(before, {f"global_cache_{name}_gb": value for name, value in named.items()})
    assert refusal.value.param == param


SIZE = st.none() | st.floats(0, 100)


@given(st.lists(st.dictionaries(st.sampled_from(SIZES), SIZE), max_size=6))
def test_no_order_of_changes_leaves_sizes_that_contradict_each_other(steps: list[dict[str, float | None]]) -> None:
    now = CacheAllocation()
    for step in steps:
        try:
            now = changed(now, step)
        except InvalidRequest:
            continue
        size, ram, ssd = sizes(now)
        assert None in (size, ram, ssd)
        assert size is None or max(ram or 0, ssd or 0) <= size


def test_priorities_of_models_that_are_gone_are_dropped() -> None:
    before = CacheAllocation(model_priorities={"here": 1, "gone": 9})
    assert without(before, {"here", "other"}).model_priorities == {"here": 1}
