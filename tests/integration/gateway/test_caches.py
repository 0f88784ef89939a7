"""What a worker gets to know of a request's origin, and what operators see of the caches."""

from typing import Any

import pytest

from inference.protocol import CacheReport, Caches, CacheView, TierReport, TierView, Timing
from quotas.callers import CachePartition, Caller, Role, digest
from tests.catalogue import a_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig
from tests.waiting import until

TINY = a_model("Tiny", 1)


def a_caller(tenant: str, role: Role = Role.INFERENCE) -> dict[str, Caller]:
    """By its digest, the caller whose secret is the tenant's name."""
    partition = CachePartition(name=tenant, key=tenant.encode().ljust(32, b"!"))
    caller = Caller(key_pk=1, tenant=tenant, role=role, prefix="nok_x", expires_at=None, partition=partition)
    return {digest(tenant): caller}


def key(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def cached(rig: Rig, secret: str, content: str, **fields: Any) -> int:
    """How many tokens of a prompt were not computed."""
    body = {"messages": [{"role": "user", "content": content}], **fields}
    async with rig.client.post("/v1/chat/completions", json=body, headers=key(secret)) as response:
        answer = await response.json()
        details: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert response.headers["X-NOpenAI-Cached-Tokens"] == str(details)
        return details


async def a_rig_of_tenants(start_rig: StartRig) -> Rig:
    return await start_rig(TINY, callers=a_caller("ours") | a_caller("theirs"), require_api_key=True)


async def test_a_prompt_is_cached_for_its_tenant_and_for_nobody_else(start_rig: StartRig) -> None:
    rig = await a_rig_of_tenants(start_rig)
    await rig.caching_worker(TINY)
    assert await cached(rig, "ours", "one two three four") == 0
    assert await cached(rig, "ours", "one two three four") == 3
    assert await cached(rig, "theirs", "one two three four") == 0


async def test_a_salt_parts_requests_of_one_tenant(start_rig: StartRig) -> None:
    rig = await a_rig_of_tenants(start_rig)
    await rig.caching_worker(TINY)
    assert await cached(rig, "ours", "one two three four", cache_salt="a") == 0
    assert await cached(rig, "ours", "one two three four", cache_salt="b") == 0
    assert await cached(rig, "ours", "one two three four", cache_salt="a") == 3


async def test_a_stream_tells_cached_tokens_with_its_usage(start_rig: StartRig) -> None:
    rig = await a_rig_of_tenants(start_rig)
    await rig.caching_worker(TINY)
    await cached(rig, "ours", "one two three four")
    body = {
        "messages": [{"role": "user", "content": "one two three four"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with rig.client.post("/v1/chat/completions", json=body, headers=key("ours")) as response:
        assert '"prompt_tokens_details":{"cached_tokens":3}' in await response.text()


async def test_the_newest_report_of_a_worker_is_kept_for_routing(start_rig: StartRig) -> None:
    rig = await a_rig_of_tenants(start_rig)
    worker = await rig.caching_worker(TINY)
    connection = rig.gateway.workers.connected(worker.view)
    assert connection is not None
    for _ in range(2):
        await cached(rig, "ours", "one two three four")
    await until(lambda: connection.cache is not None and connection.cache.hits == 1)
    assert connection.load is not None


# --- What operators see ---


def some_caches(**changes: Any) -> Caches:
    view = CacheView(
        version_pk=1,
        model="Tiny",
        version="1.0.0",
        running=True,
        cache=CacheReport(prompt_tokens=9, lookups=3, ram=TierReport(blocks=2), match_timing=Timing(counts=(3,))),
        window_prompt_tokens=8,
        window_cached_tokens=6,
        ram=TierView(held_bytes=5),
        ssd=TierView(),
    )
    fields: dict[str, Any] = {"caches": (view,), "ram_bytes": 10, "ssd_bytes": 20, "configured": True, "since": 0.0}
    return Caches(**(fields | changes))


async def told(rig: Rig, caches: Caches) -> None:
    rig.supervisor.publish_caches(caches)
    await until(lambda: rig.gateway.nodes.own.caches == caches)


async def get(rig: Rig, path: str, secret: str = "") -> tuple[int, Any]:
    async with rig.client.get(path, headers=key(secret) if secret else {}) as response:
        return response.status, await response.json()


@pytest.mark.parametrize("path", ["/cache/stats", "/metrics/cache"])
async def test_statistics_come_from_the_supervisor(start_rig: StartRig, path: str) -> None:
    rig = await start_rig(TINY, a_model("Quiet", 2))
    await told(rig, some_caches())
    status, body = await get(rig, path)
    assert status == 200
    assert {model: row["hit_rate"] for model, row in body["per_model"].items()} == {"Tiny": 0.75, "Quiet": None}
    assert (body["since"], body["supervisor"]["reachable"]) == ("1970-01-01T00:00:00.000Z", True)
    assert "profiling" not in body


async def test_a_newer_view_replaces_the_one_before(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await told(rig, some_caches())
    await told(rig, some_caches(caches=()))
    _, body = await get(rig, "/cache/stats")
    assert body["per_model"]["Tiny"]["lookups"] == 0


async def test_statistics_stay_while_the_supervisor_is_away_and_say_so(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await told(rig, some_caches())
    await rig.supervisor.stop()
    await until(lambda: not rig.gateway.nodes.connected)
    _, body = await get(rig, "/cache/stats")
    assert (body["supervisor"]["reachable"], body["per_model"]["Tiny"]["lookups"]) == (False, 3)
    await rig.supervisor.start()


async def test_details_need_profiling(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    await told(rig, some_caches())
    _, body = await get(rig, "/metrics/cache?detailed=true")
    assert "NOPENAI_PROFILE=1" in body["profiling"]


async def test_details_tell_how_long_each_stage_takes(start_rig: StartRig) -> None:
    rig = await start_rig(TINY, profile=True)
    await told(rig, some_caches())
    _, body = await get(rig, "/metrics/cache?detailed=true")
    assert body["profiling"]["match"]["count"] == 3
    assert 0 < body["profiling"]["match"]["p99_seconds"] <= 1e-6


async def test_detailed_is_true_or_false(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    status, body = await get(rig, "/metrics/cache?detailed=perhaps")
    assert (status, body["error"]["param"]) == (400, "detailed")


@pytest.mark.parametrize("path", ["/cache/stats", "/metrics/cache"])
async def test_where_keys_are_required_it_takes_an_operators(start_rig: StartRig, path: str) -> None:
    """Who may watch hits and misses could learn what other tenants have asked."""
    callers = a_caller("user") | a_caller("operator", Role.OPERATOR)
    rig = await start_rig(TINY, callers=callers, require_api_key=True)
    assert [(await get(rig, path, secret))[0] for secret in ("", "unknown", "user", "operator")] == [401, 401, 403, 200]
