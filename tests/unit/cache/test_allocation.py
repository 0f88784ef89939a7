"""Sizes and shares: what is configured, what a machine has, who used how much in, bytes for each model out."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.cache.allocation import (
    MINIMUM_PART,
    MOST_OF_DISK,
    Ceiling,
    Machine,
    ModelUse,
    Share,
    Size,
    Sizes,
    UseBucket,
    ceiling,
    demand,
    shares,
    sizes,
    worth_changing,
)
from registry.cache.configuration import GB, MB, CacheAllocation, PerModelQuota, Strategy

MACHINE = Machine(ram_bytes=32 * GB, disk_bytes=500 * GB)


def config(**fields: object) -> CacheAllocation:
    return msgspec.convert(fields, CacheAllocation)


def effective_gb(*, machine: Machine = MACHINE, **fields: float) -> tuple[float, float]:
    size = sizes(config(**{f"global_cache_{name}_gb": value for name, value in fields.items()}), machine)
    return size.ram.effective_bytes / GB, size.ssd.effective_bytes / GB


# --- Sizes -----------------------------------------------------------------------------------------------------------


def test_without_a_configuration_the_cache_has_a_quarter_of_the_memory_budget_and_a_tenth_of_the_free_disk() -> None:
    assert effective_gb() == (8, 50)


def test_a_global_size_alone_is_divided_between_ram_and_ssd() -> None:
    assert effective_gb(size=100) == (8, 92)
    assert effective_gb(size=10) == (5, 5)


def test_two_sizes_give_the_third() -> None:
    assert effective_gb(size=100, ram=20) == (20, 80)
    assert effective_gb(size=100, ssd=85) == (15, 85)


def test_one_tier_alone_leaves_the_other_as_it_would_be() -> None:
    assert effective_gb(ram=3) == (3, 50)
    assert effective_gb(ssd=0) == (8, 0)


def test_more_than_the_machine_has_is_configured_but_not_used() -> None:
    size = sizes(config(global_cache_ram_gb=100, global_cache_ssd_gb=10_000), MACHINE)
    assert size.ram == Size(configured_bytes=100 * GB, effective_bytes=32 * GB)
    assert size.ssd == Size(configured_bytes=10_000 * GB, effective_bytes=int(500 * GB * MOST_OF_DISK))


# --- The four strategies ---------------------------------------------------------------------------------------------

USES = [
    ModelUse(model="busy all day", day_prompt_tokens=900_000, demand=0),
    ModelUse(model="busy now", day_prompt_tokens=100_000, demand=5_000),
    ModelUse(model="idle"),
]


def parts(strategy: str, uses: list[ModelUse] = USES, **fields: object) -> dict[str, float]:
    """Each model's part of the RAM that is divided by weight, once everybody has the minimum."""
    given = shares(config(allocation_strategy=strategy, global_cache_ram_gb=10, **fields), uses, MACHINE)
    minimum = 10 * GB // (MINIMUM_PART * len(uses))
    divided = 10 * GB - minimum * len(uses)
    return {model: round((share.ram_bytes - minimum) / divided, 3) for model, share in given.items()}


def test_fair_share_gives_equal_parts_whatever_the_use() -> None:
    assert set(parts("fair_share").values()) == {0.333}


def test_proportional_follows_the_prompt_tokens_of_a_day() -> None:
    assert parts("proportional") == {"busy all day": 0.9, "busy now": 0.1, "idle": 0}


def test_dynamic_follows_the_demand_of_the_last_minutes() -> None:
    assert parts("dynamic") == {"busy all day": 0, "busy now": 1, "idle": 0}


def test_priority_based_follows_priorities_and_takes_5_for_who_is_not_named() -> None:
    named = {"busy all day": 10, "busy now": 0}
    assert parts("priority_based", model_priorities=named) == {"busy all day": 0.667, "busy now": 0, "idle": 0.333}


@pytest.mark.parametrize("strategy", ["proportional", "dynamic"])
def test_before_anybody_was_asked_the_parts_are_equal(strategy: str) -> None:
    assert set(parts(strategy, [ModelUse(model="a"), ModelUse(model="b")]).values()) == {0.5}


@pytest.mark.parametrize(
    ("strategy", "why"),
    [
        ("fair_share", "fair_share: one of 3 equal parts"),
        ("proportional", "proportional: 10.0% of the prompt tokens of the last 24 hours"),
        ("dynamic", "dynamic: 100.0% of the demand of the last minutes"),
        ("priority_based", "priority_based: priority 5 of 15 in all (not named, so 5)"),
    ],
)
def test_a_share_says_why(strategy: str, why: str) -> None:
    assert shares(config(allocation_strategy=strategy), USES, MACHINE)["busy now"].why == why


# --- Demand ----------------------------------------------------------------------------------------------------------


def test_demand_halves_every_five_minutes() -> None:
    now, earlier = (demand([UseBucket(age_seconds=age, prompt_tokens=1000, requests=0)]) for age in (0.0, 300.0))
    assert (now, earlier) == (1000, 500)


def test_many_short_questions_are_demand_too() -> None:
    assert demand([UseBucket(age_seconds=0, prompt_tokens=10, requests=100)]) == 10 + 100 * 64


# --- Quotas ----------------------------------------------------------------------------------------------------------


def test_what_a_capped_model_leaves_goes_to_the_others() -> None:
    quota = {"max_ram_mb": 4096}
    given = shares(
        config(allocation_strategy="proportional", global_cache_ram_gb=10, per_model_quota=quota), USES, MACHINE
    )
    assert given["busy all day"].ram_bytes == 4 * GB
    assert given["busy all day"].why.endswith("; capped by per_model_quota.max_ram_mb")
    assert given["busy now"].ram_bytes == 4 * GB
    assert given["idle"].ram_bytes == 2 * GB


def test_the_two_quotas_of_the_cache_cap_a_tier_each() -> None:
    quota = PerModelQuota(max_ram_mb=100, max_ssd_gb=0.5)
    given = shares(CacheAllocation(per_model_quota=quota), USES, MACHINE)
    assert {(share.ram_bytes, share.ssd_bytes) for share in given.values()} == {(100 * MB, GB // 2)}


def test_a_models_own_limits_stand_for_those_of_all() -> None:
    quota = PerModelQuota(max_ram_mb=100, max_ssd_gb=0.5)
    own = {"idle": Ceiling(ram_bytes=10 * MB), "busy now": Ceiling(ssd_bytes=GB)}
    given = shares(CacheAllocation(per_model_quota=quota, global_cache_ssd_gb=3), USES, MACHINE, own)
    assert given["busy all day"].ram_bytes == 100 * MB
    assert given["idle"].ram_bytes == 10 * MB
    assert given["idle"].why.endswith("; capped by its own max_ram_mb")
    assert given["busy now"].ram_bytes > 100 * MB
    assert [given[name].ssd_bytes for name in ("busy all day", "busy now", "idle")] == [GB // 2, GB, 3 * GB // 2]


# --- Properties ------------------------------------------------------------------------------------------------------

NAMES = "abcdefg"


@st.composite
def uses(draw: st.DrawFn) -> list[ModelUse]:
    number = draw(st.integers(1, len(NAMES)))
    tokens = st.integers(0, 10**9)
    return [
        ModelUse(model=NAMES[place], day_prompt_tokens=draw(tokens), demand=draw(tokens)) for place in range(number)
    ]


machines = st.builds(Machine, ram_bytes=st.integers(0, 10**12), disk_bytes=st.integers(0, 10**13))
sizes_gb = st.none() | st.floats(0, 1000)
configs = st.builds(
    CacheAllocation,
    global_cache_ram_gb=sizes_gb,
    global_cache_ssd_gb=sizes_gb,
    allocation_strategy=st.sampled_from(Strategy),
    model_priorities=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 10)),
    per_model_quota=st.builds(
        PerModelQuota, max_ram_mb=st.none() | st.integers(0, 10**6), max_ssd_gb=st.none() | st.floats(0, 1000)
    ),
)


bounds = st.none() | st.integers(0, 10**12)
own_ceilings = st.dictionaries(st.sampled_from(NAMES), st.builds(Ceiling, ram_bytes=bounds, ssd_bytes=bounds))


@given(configs, uses(), machines, own_ceilings)
def test_every_byte_is_given_to_somebody_and_none_twice(
    config: CacheAllocation, models: list[ModelUse], machine: Machine, own: dict[str, Ceiling]
) -> None:
    given_out = shares(config, models, machine, own)
    size = sizes(config, machine)
    ceilings = [ceiling(config, own, model) for model in given_out]
    for tier, caps, given_bytes in (
        (size.ram, [each.ram_bytes for each in ceilings], [share.ram_bytes for share in given_out.values()]),
        (size.ssd, [each.ssd_bytes for each in ceilings], [share.ssd_bytes for share in given_out.values()]),
    ):
        most = [tier.effective_bytes if cap is None else min(cap, tier.effective_bytes) for cap in caps]
        assert sum(given_bytes) == min(tier.effective_bytes, sum(most))
        assert all(part <= bound for part, bound in zip(given_bytes, most, strict=True))


@given(configs, machines)
def test_the_effective_size_is_neither_more_than_configured_nor_than_there_is(
    config: CacheAllocation, machine: Machine
) -> None:
    size = sizes(config, machine)
    assert 0 <= size.ram.effective_bytes <= min(size.ram.configured_bytes, machine.ram_bytes)
    assert 0 <= size.ssd.effective_bytes <= min(size.ssd.configured_bytes, machine.disk_bytes)


@given(configs, uses(), machines)
def test_no_model_is_starved(config: CacheAllocation, models: list[ModelUse], machine: Machine) -> None:
    size, cap = sizes(config, machine).ram.effective_bytes, config.per_model_quota.ram_bytes
    minimum = size // (MINIMUM_PART * len(models))
    for share in shares(config, models, machine).values():
        assert share.ram_bytes >= (minimum if cap is None else min(minimum, cap))


@given(configs, uses(), machines, st.data())
def test_a_higher_priority_never_gets_a_model_less(
    config: CacheAllocation, models: list[ModelUse], machine: Machine, data: st.DataObject
) -> None:
    model = data.draw(st.sampled_from([use.model for use in models]))
    low, high = sorted(data.draw(st.tuples(st.integers(0, 10), st.integers(0, 10))))
    before, after = (
        shares(
            msgspec.structs.replace(
                config,
                allocation_strategy=Strategy.PRIORITY_BASED,
                model_priorities={**config.model_priorities, model: priority},
            ),
            models,
            machine,
        )[model]
        for priority in (low, high)
    )
    assert after.ram_bytes >= before.ram_bytes
    assert after.ssd_bytes >= before.ssd_bytes


# --- When to disturb the workers -------------------------------------------------------------------------------------

SIZE = Sizes(
    ram=Size(configured_bytes=1000, effective_bytes=1000), ssd=Size(configured_bytes=1000, effective_bytes=1000)
)


def both(a: int, b: int) -> dict[str, Share]:
    return {name: Share(ram_bytes=part, ssd_bytes=part, why="") for name, part in (("a", a), ("b", b))}


@pytest.mark.parametrize(
    ("old", "new", "worth"),
    [
        (both(500, 500), both(505, 495), False),
        (both(500, 500), both(511, 489), True),
        (both(500, 500), {"a": both(1000, 0)["a"]}, True),
        (both(500, 501), both(500, 500), True),
    ],
)
def test_workers_are_disturbed_for_what_is_worth_it(old: dict[str, Share], new: dict[str, Share], worth: bool) -> None:
    assert worth_changing(old, new, SIZE) is worth
