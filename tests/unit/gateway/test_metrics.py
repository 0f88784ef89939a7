"""Which metrics there are and where each number comes from."""

import math
from types import MappingProxyType
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from inference.durations import Histogram
from inference.gateway.exposition import written
from inference.gateway.metrics import Known, WorkerNumbers, metrics
from inference.protocol import (
    CacheReport,
    Caches,
    CacheView,
    Durations,
    ModelSums,
    ReplicaState,
    ReplicaView,
    RequestCounts,
    Sums,
    TierReport,
    TierView,
    WorkerCounts,
)
from registry.catalogue import Health
from tests.catalogue import a_model, a_version


def a_cache(version: str, **changes: Any) -> CacheView:
    fields: dict[str, Any] = {
        "version_pk": 1,
        "model": "tiny",
        "version": version,
        "running": True,
        "cache": CacheReport(),
        "window_prompt_tokens": 0,
        "window_cached_tokens": 0,
        "ram": TierView(),
        "ssd": TierView(),
    }
    return CacheView(**(fields | changes))


def caches(*views: CacheView) -> Caches:
    return Caches(caches=views, ram_bytes=0, ssd_bytes=0, configured=True, since=0.0)


NOTHING = Known(
    build={"version": "1"},
    supervisor_connected=True,
    models=(),
    health_checked_at=None,
    replicas=MappingProxyType({}),
    workers=(),
    caches=None,
    sums=Sums(models=()),
    limits={},
    modes={},
    emergency=False,
    shares_of_b={},
)


def shown(**changes: Any) -> dict[tuple[Any, ...], float]:
    """The samples by their name and labels' values."""
    known = msgspec.structs.replace(NOTHING, **changes)
    text = "".join(written(metric) for metric in metrics(known))
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def durations(*seconds: float) -> Durations:
    histogram = Histogram()
    for each in seconds:
        histogram.observe(each)
    return histogram.durations


def test_who_knows_nothing_yet_says_so_without_failing() -> None:
    known = shown(supervisor_connected=False)
    routing = {labels: value for labels, value in known.items() if labels[0].startswith("nopenai_routing")}
    assert not any(value for labels, value in routing.items() if not labels[0].endswith("_duration_seconds"))
    assert math.isnan(routing["nopenai_routing_duration_seconds", "0.5"])
    assert {labels: value for labels, value in known.items() if labels not in routing} == {
        ("nopenai_build_info", "1"): 1.0,
        ("nopenai_supervisor_connected",): 0.0,
        ("nopenai_emergency",): 0,
        ("nopenai_lease_refills_total",): 0,
        ("nopenai_permit_requests_total",): 0,
        ("nopenai_spans_exported_total",): 0,
        ("nopenai_spans_dropped_total",): 0,
    }


def test_every_metric_has_help_that_ends_in_a_sentence_and_a_name_of_its_own() -> None:
    all_ = list(metrics(NOTHING))
    assert len({metric.name for metric in all_}) == len(all_)
    assert all(metric.name.startswith("nopenai_") and metric.help and "\n" not in metric.help for metric in all_)


def test_health_is_a_number_and_a_state() -> None:
    models = [
        a_model("good", 1),
        a_model("slow", a_version("slow", health=Health.DEGRADED)),
        a_model("bad", a_version("bad", health=Health.UNHEALTHY)),
        a_model("new", 1, promoted=None),
        a_model("alias", 1, alias_of="good"),
    ]
    samples = shown(models=models)
    status = {key[1]: value for key, value in samples.items() if key[0] == "nopenai_model_health_status"}
    assert status == {"good": 1, "slow": 0.5, "bad": 0, "new": 0}
    states = {key[1:]: value for key, value in samples.items() if key[0] == "nopenai_model_health"}
    assert {key for key, value in states.items() if value} == {
        ("good", "healthy"),
        ("slow", "degraded"),
        ("bad", "unhealthy"),
        ("new", "not_promoted"),
    }
    assert len(states) == 4 * 6


def test_a_model_is_in_one_state_on_this_node() -> None:
    replica = ReplicaView(
        version_pk=2, model="up", version="1.0.0", state=ReplicaState.READY, reason="", socket="", progress=1, since=0
    )
    samples = shown(models=[a_model("down", 1), a_model("up", 2)], replicas={2: replica})
    states = {key[1:]: value for key, value in samples.items() if key[0] == "nopenai_model_state"}
    assert {key for key, value in states.items() if value} == {("down", "cold"), ("up", "ready")}


def test_requests_and_tokens_come_from_the_sums() -> None:
    sums = ModelSums(
        model="tiny",
        requests=RequestCounts(requests=9, cancelled=2, errors={"worker_failed": 1}, first_token=durations(0.2, 3.0)),
        work=WorkerCounts(prompt_tokens=50, cached_tokens=30, completion_tokens=7, token_gap=durations(0.01)),
        load_time=durations(1.5),
        restarts=4,
    )
    samples = shown(sums=Sums(models=(sums,)))
    assert samples["nopenai_model_requests_total", "tiny"] == 9
    assert samples["nopenai_model_requests_cancelled_total", "tiny"] == 2
    assert samples["nopenai_model_request_errors_total", "tiny", "worker_failed"] == 1
    assert samples["nopenai_prompt_tokens_total", "tiny"] == 50
    assert samples["nopenai_cached_tokens_total", "tiny"] == 30
    assert samples["nopenai_completion_tokens_total", "tiny"] == 7
    assert samples["nopenai_worker_restarts_total", "tiny"] == 4
    assert samples["nopenai_time_to_first_token_seconds_count", "tiny"] == 2
    assert samples["nopenai_time_to_first_token_seconds_sum", "tiny"] == 3.2
    assert samples["nopenai_inter_token_latency_seconds_bucket", "tiny", "0.01"] == 1
    assert samples["nopenai_queue_wait_seconds_count", "tiny"] == 0
    assert samples["nopenai_model_load_seconds_sum", "tiny"] == 1.5


def test_the_versions_of_a_model_are_added_up() -> None:
    one = a_cache(
        "1.0.0",
        cache=CacheReport(lookups=3, hits=2, ssd_hits=1, written_bytes=100, ram=TierReport(blocks=4, evicted_blocks=1)),
        window_prompt_tokens=30,
        window_cached_tokens=10,
        ram=TierView(held_bytes=5, limit_bytes=8),
    )
    two = a_cache(
        "1.0.1",
        cache=CacheReport(lookups=1, ssd=TierReport(blocks=6, dropped_blocks=2), context_tokens=64),
        window_prompt_tokens=10,
        window_cached_tokens=20,
        ssd=TierView(held_bytes=7, share_bytes=9),
    )
    samples = shown(caches=caches(one, two))
    assert samples["nopenai_cache_hit_rate", "tiny"] == 0.75
    assert samples["nopenai_cache_size_bytes", "tiny"] == 12
    assert samples["nopenai_cache_lookups_total", "tiny"] == 4
    assert samples["nopenai_cache_hits_total", "tiny"] == 2
    assert samples["nopenai_cache_ssd_hits_total", "tiny"] == 1
    assert samples["nopenai_cache_ssd_written_bytes_total", "tiny"] == 100
    assert samples["nopenai_kv_context_tokens", "tiny"] == 64
    for name, tiers in {
        "nopenai_kv_blocks": (4, 6),
        "nopenai_kv_bytes": (5, 7),
        "nopenai_kv_limit_bytes": (8, 0),
        "nopenai_kv_share_bytes": (0, 9),
        "nopenai_kv_evicted_blocks_total": (1, 0),
        "nopenai_kv_dropped_blocks_total": (0, 2),
    }.items():
        assert (samples[name, "tiny", "ram"], samples[name, "tiny", "ssd"]) == tiers


def test_a_hit_rate_of_nothing_is_absent_rather_than_zero() -> None:
    assert ("nopenai_cache_hit_rate", "tiny") not in shown(caches=caches(a_cache("1.0.0")))


def test_what_workers_say_is_added_up_by_model() -> None:
    workers = [
        WorkerNumbers(model="tiny", running=3, waiting=1, lanes=4, held_prefixes=5),
        WorkerNumbers(model="tiny", running=0, waiting=2, lanes=8, held_prefixes=6),
    ]
    samples = shown(workers=workers)
    assert samples["nopenai_requests_running", "tiny"] == 3
    assert samples["nopenai_requests_waiting", "tiny"] == 3
    assert samples["nopenai_batch_occupancy_ratio", "tiny"] == 0.25
    assert samples["nopenai_cache_held_prefixes", "tiny"] == 11


def test_the_share_of_each_ab_test_is_shown() -> None:
    known = shown(shares_of_b={"auto: one / other": 0.05})
    assert known["nopenai_ab_test_share", "auto: one / other"] == 0.05
