"""What ``/metrics`` shows: which metrics there are, and where each number comes from. Pure.

Every gateway process shows the same numbers, since each comes from one source: counters from the supervisor's sums
(:class:`inference.protocol.Sums`) and its view of the caches, health from the registry, and what runs or waits from
the workers, which tell it to all gateways. Counters begin with the supervisor.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from inference.gateway.exposition import AnyMetric, HistogramMetric, Labels, Metric
from inference.gateway.health_api import NOT_PROMOTED, health_of
from inference.gateway.quota_report import LimitUse, remaining_tokens
from inference.gateway.routing_metrics import routing_metrics
from inference.gateway.supervisor_link import View, state_of
from inference.protocol import Caches, CacheView, Durations, ModelSums, ReplicaState, Sums
from quotas.modes import Mode
from registry.catalogue import Health, Model

_HEALTH_VALUES = {Health.HEALTHY: 1.0, Health.DEGRADED: 0.5}
_HEALTH_STATES = (*Health, NOT_PROMOTED)


class WorkerNumbers(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker of one version says of itself."""

    model: str
    running: int
    waiting: int
    lanes: int
    held_prefixes: int


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """All that a gateway knows when it is asked."""

    build: Mapping[str, str]
    supervisor_connected: bool
    models: Sequence[Model]
    health_checked_at: float | None
    """When all of them were checked last."""
    replicas: View
    workers: Sequence[WorkerNumbers]
    caches: Caches | None
    sums: Sums
    limits: Mapping[str, Sequence[LimitUse]]
    modes: Mapping[str, Mode]
    """Both by model: of those that are limited."""
    emergency: bool
    shares_of_b: Mapping[str, float]
    """In force, by the name of each A/B test that is on."""


def metrics(known: Known) -> Iterator[AnyMetric]:
    yield from _node(known)
    yield from _models(known)
    yield from _requests(known.sums.models)
    yield from _work(known.sums.models)
    yield from _workers(known)
    yield from _caches(known)
    yield from _tiers(known)
    yield from _limits(known)
    yield from _traces(known)
    yield from routing_metrics(known.sums.routing, known.shares_of_b)


def _node(known: Known) -> Iterator[Metric]:
    yield Metric(
        "nopenai_build_info",
        "gauge",
        "What this server is made of, in its labels; always 1.",
        [(list(known.build.items()), 1.0)],
    )
    yield Metric(
        "nopenai_supervisor_connected",
        "gauge",
        "1 while this node's supervisor, from which all counters come, can be reached; else 0 and they stand still.",
        [((), float(known.supervisor_connected))],
    )


def _models(known: Known) -> Iterator[Metric]:
    own = [model for model in known.models if model.alias_of is None]
    health = {model.id: health_of(model) for model in own}
    yield Metric(
        "nopenai_model_health_status",
        "gauge",
        "Health of a model: 1 healthy, 0.5 degraded, else 0. From the registry: the same on every node.",
        [
            (_of(name), _HEALTH_VALUES.get(Health(word), 0.0) if word != NOT_PROMOTED else 0.0)
            for name, word in health.items()
        ],
    )
    yield Metric(
        "nopenai_model_health",
        "gauge",
        "1 for the state that a model's health is in, 0 for all others. From the registry: the same on every node.",
        [(_of(name, state=state), float(state == word)) for name, word in health.items() for state in _HEALTH_STATES],
    )
    yield Metric(
        "nopenai_health_checked_timestamp_seconds",
        "gauge",
        "When the health of all models was checked last, in seconds since the epoch. From the registry: the same on "
        "every node; absent before the first time.",
        [] if known.health_checked_at is None else [((), known.health_checked_at)],
    )
    yield Metric(
        "nopenai_model_state",
        "gauge",
        "1 for the state that a model's worker on this node is in, 0 for all others; backends elsewhere have none.",
        [
            (_of(model.id, state=state), float(state_of(known.replicas, model.promoted.pk) is state))
            for model in own
            if model.promoted is not None and not model.promoted.remote
            for state in ReplicaState
        ],
    )


def _requests(sums: Sequence[ModelSums]) -> Iterator[Metric | HistogramMetric]:
    yield _counter(
        "nopenai_model_requests_total",
        "Requests that were routed to a model and have ended, however they did.",
        sums,
        lambda each: each.requests.requests,
    )
    yield Metric(
        "nopenai_model_request_errors_total",
        "counter",
        "Requests that were routed to a model and ended with an error, by the code that the client was told.",
        [(_of(each.model, code=code), count) for each in sums for code, count in sorted(each.requests.errors.items())],
    )
    yield _counter(
        "nopenai_model_requests_cancelled_total",
        "Requests that were routed to a model and whose client left before the end.",
        sums,
        lambda each: each.requests.cancelled,
    )
    yield _durations(
        "nopenai_time_to_first_token_seconds",
        "Seconds from the routing of a request to its first token, loading and queues included.",
        sums,
        lambda each: each.requests.first_token,
    )
    yield _durations(
        "nopenai_queue_wait_seconds",
        "Seconds that a request waited in a worker before its prompt was begun.",
        sums,
        lambda each: each.work.queue_wait,
    )
    yield _durations(
        "nopenai_inter_token_latency_seconds",
        "Seconds between two tokens of one answer, as they left the worker; tokens that leave together count as one.",
        sums,
        lambda each: each.work.token_gap,
    )
    yield _durations(
        "nopenai_model_load_seconds",
        "Seconds from the start of a worker until its model was ready.",
        sums,
        lambda each: each.load_time,
    )


def _work(sums: Sequence[ModelSums]) -> Iterator[Metric]:
    yield _counter("nopenai_prompt_tokens_total", "Tokens of prompts.", sums, lambda each: each.work.prompt_tokens)
    yield _counter(
        "nopenai_cached_tokens_total",
        "Tokens of prompts that were not computed, since their KV was cached.",
        sums,
        lambda each: each.work.cached_tokens,
    )
    yield _counter(
        "nopenai_completion_tokens_total", "Tokens generated.", sums, lambda each: each.work.completion_tokens
    )
    yield _counter(
        "nopenai_worker_restarts_total",
        "Starts of a model's worker after a failure.",
        sums,
        lambda each: each.restarts,
    )


def _workers(known: Known) -> Iterator[Metric]:
    by_model: dict[str, list[WorkerNumbers]] = {}
    for worker in known.workers:
        by_model.setdefault(worker.model, []).append(worker)

    def gauge(name: str, help: str, value: Callable[[Sequence[WorkerNumbers]], float]) -> Metric:
        return Metric(name, "gauge", help, [(_of(model), value(workers)) for model, workers in by_model.items()])

    yield gauge(
        "nopenai_requests_running",
        "Requests that a model's workers compute.",
        lambda all_: sum(w.running for w in all_),
    )
    yield gauge(
        "nopenai_requests_waiting",
        "Requests that wait in a model's workers for their turn.",
        lambda all_: sum(w.waiting for w in all_),
    )
    yield gauge(
        "nopenai_batch_occupancy_ratio",
        "Requests that are computed, divided by how many a model's workers compute at once: 1 is full.",
        lambda all_: sum(w.running for w in all_) / max(1, sum(w.lanes for w in all_)),
    )
    yield gauge(
        "nopenai_cache_held_prefixes",
        "Beginnings of prompts that a model's workers have told they need not compute again.",
        lambda all_: sum(w.held_prefixes for w in all_),
    )


def _caches(known: Known) -> Iterator[Metric]:
    views = _by_model(known.caches)
    rates = {
        model: (_total(of, "window_cached_tokens"), _total(of, "window_prompt_tokens")) for model, of in views.items()
    }
    yield Metric(
        "nopenai_cache_hit_rate",
        "gauge",
        "Tokens of prompts that were not computed, divided by all tokens of prompts, of the last ten minutes; "
        "absent where there were none.",
        [(_of(model), cached / prompt) for model, (cached, prompt) in rates.items() if prompt],
    )
    yield Metric(
        "nopenai_cache_size_bytes",
        "gauge",
        "Bytes of KV that are kept of a model, in RAM and on SSD.",
        [(_of(model), sum(v.ram.held_bytes + v.ssd.held_bytes for v in of)) for model, of in views.items()],
    )

    def counter(name: str, help: str, value: Callable[[CacheView], float]) -> Metric:
        return Metric(name, "counter", help, [(_of(model), sum(map(value, of))) for model, of in views.items()])

    yield counter(
        "nopenai_cache_lookups_total", "Prompts that were looked up in the KV cache.", lambda v: v.cache.lookups
    )
    yield counter("nopenai_cache_hits_total", "Prompts of which the KV cache held anything.", lambda v: v.cache.hits)
    yield counter(
        "nopenai_cache_ssd_hits_total", "Prompts of which it held some on SSD only.", lambda v: v.cache.ssd_hits
    )
    yield counter(
        "nopenai_cache_ssd_written_bytes_total", "Bytes of KV written to SSD.", lambda v: v.cache.written_bytes
    )
    yield counter("nopenai_cache_save_seconds_total", "Seconds spent on keeping KV.", lambda v: v.cache.save_seconds)
    yield counter(
        "nopenai_cache_restore_seconds_total", "Seconds spent on restoring KV.", lambda v: v.cache.restore_seconds
    )


def _tiers(known: Known) -> Iterator[Metric]:
    """``ram`` and ``ssd`` are what is kept; the context's cells hold running sequences, and no blocks."""
    views = _by_model(known.caches)

    def each(value: Callable[[CacheView, str], float]) -> list[tuple[Labels, float]]:
        return [
            (_of(model, tier=tier), sum(value(view, tier) for view in of))
            for model, of in views.items()
            for tier in ("ram", "ssd")
        ]

    def report(field: str) -> list[tuple[Labels, float]]:
        return each(lambda view, tier: getattr(getattr(view.cache, tier), field))

    def tier(field: str) -> list[tuple[Labels, float]]:
        return each(lambda view, tier: getattr(getattr(view, tier), field))

    yield Metric(
        "nopenai_kv_context_tokens",
        "gauge",
        "Tokens whose KV running sequences hold in a model's context.",
        [(_of(model), sum(view.cache.context_tokens for view in of)) for model, of in views.items()],
    )
    yield Metric(
        "nopenai_kv_blocks", "gauge", "Blocks of KV that a tier holds; 64 tokens or less each.", report("blocks")
    )
    yield Metric("nopenai_kv_bytes", "gauge", "Bytes of KV that a tier holds.", tier("held_bytes"))
    yield Metric("nopenai_kv_limit_bytes", "gauge", "Bytes that a model may hold in a tier now.", tier("limit_bytes"))
    yield Metric(
        "nopenai_kv_share_bytes", "gauge", "Bytes that the allocation gives a model in a tier.", tier("share_bytes")
    )
    yield Metric(
        "nopenai_kv_evicted_blocks_total",
        "counter",
        "Blocks of KV that newer ones, or a smaller limit, have pushed out of a tier.",
        report("evicted_blocks"),
    )
    yield Metric(
        "nopenai_kv_dropped_blocks_total",
        "counter",
        "Blocks of KV that a tier did not take (beyond its rate or its day's budget) or could not read.",
        report("dropped_blocks"),
    )


def _limits(known: Known) -> Iterator[Metric]:
    everywhere = "From PostgreSQL: the same on every node, so take max, not sum."
    yield Metric(
        "nopenai_quota_usage_percent",
        "gauge",
        "Percent of a model's limit that is used or promised in the window of now: hourly and daily tokens, "
        f"hourly_requests, daily_requests. {everywhere} But concurrent is this node's own.",
        [(_of(model, type=use.type), use.percent) for model, uses in known.limits.items() for use in uses],
    )
    left = {model: remaining_tokens(uses) for model, uses in known.limits.items()}
    yield Metric(
        "nopenai_quota_remaining_tokens",
        "gauge",
        f"Tokens that are left of the tightest of a model's limits on tokens. {everywhere}",
        [(_of(model), float(tokens)) for model, tokens in left.items() if tokens is not None],
    )
    yield Metric(
        "nopenai_quota_mode",
        "gauge",
        "1 for the mode that a limited model is in, 0 for the others. As this gateway sees it: a node that is short of "
        "memory has an emergency of its own.",
        [(_of(model, mode=each.value), float(each is mode)) for model, mode in known.modes.items() for each in Mode],
    )
    yield Metric(
        "nopenai_emergency",
        "gauge",
        "1 while only urgent requests are served, of any model: an operator says so, or this node is short of memory.",
        [((), float(known.emergency))],
    )
    yield Metric(
        "nopenai_lease_refills_total",
        "counter",
        "Parts of limits' windows that gateways have asked PostgreSQL for. Requests do without, but for few.",
        [((), float(known.sums.gateways.lease_refills))],
    )
    yield Metric(
        "nopenai_permit_requests_total",
        "counter",
        "Requests for which gateways have asked the supervisor whether they may run beside others.",
        [((), float(known.sums.gateways.permit_requests))],
    )


def _traces(known: Known) -> Iterator[Metric]:
    yield Metric(
        "nopenai_spans_exported_total",
        "counter",
        "Spans of traced requests that a collector has taken.",
        [((), float(known.sums.gateways.spans_exported))],
    )
    yield Metric(
        "nopenai_spans_dropped_total",
        "counter",
        "Spans of traced requests that no collector will have: it did not take them in time.",
        [((), float(known.sums.gateways.spans_dropped))],
    )


def _of(model: str, **more: str) -> Labels:
    return [("model", model), *more.items()]


def _counter(name: str, help: str, sums: Sequence[ModelSums], value: Callable[[ModelSums], float]) -> Metric:
    return Metric(name, "counter", help, [(_of(each.model), value(each)) for each in sums])


def _durations(
    name: str, help: str, sums: Sequence[ModelSums], value: Callable[[ModelSums], Durations]
) -> HistogramMetric:
    return HistogramMetric(name, help, [(_of(each.model), value(each)) for each in sums])


def _by_model(caches: Caches | None) -> dict[str, list[CacheView]]:
    views: dict[str, list[CacheView]] = {}
    for view in caches.caches if caches else ():
        views.setdefault(view.model, []).append(view)
    return views


def _total(views: Iterable[CacheView], field: str) -> int:
    return sum(getattr(view, field) for view in views)
