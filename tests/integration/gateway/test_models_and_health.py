"""Reads that are served from memory."""

from typing import Any

import pytest
from msgspec.structs import replace
from structlog.testing import capture_logs

from inference.protocol import ReplicaState
from registry.catalogue import Health
from tests.catalogue import a_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, a_view
from tests.waiting import until

ORG = a_model("org/m:Q4", 1)
PLAIN = a_model("plain", 2)
GUIDE_FIELDS = {
    "id",
    "display_name",
    "path",
    "version",
    "architecture",
    "parameter_count",
    "enabled",
    "health_status",
    "use_count",
    "size_bytes",
    "preload",
}
OUR_FIELDS = {"remote", "object", "created", "owned_by", "quantization", "context_length", "capabilities", "state"}


async def get(rig: Rig, path: str, status: int = 200) -> Any:
    async with rig.client.get(path) as response:
        assert response.status == status, await response.text()
        assert response.headers["Content-Type"] == "application/json"
        return await response.json()


async def test_the_list_has_the_guides_fields_and_openais(start_rig: StartRig) -> None:
    rig = await start_rig(ORG, PLAIN)
    listed = await get(rig, "/v1/models")
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["org/m:Q4", "plain"]
    assert set(listed["data"][0]) == GUIDE_FIELDS | OUR_FIELDS
    assert (listed["data"][0]["parameter_count"], listed["data"][0]["state"]) == ("135M", "cold")


async def test_the_list_follows_the_registry_and_the_replicas(start_rig: StartRig) -> None:
    rig = await start_rig(PLAIN)
    for state in (ReplicaState.LOADING, ReplicaState.READY, ReplicaState.DRAINING):
        await rig.announce(a_view(PLAIN, state, socket="/nowhere"))
        assert (await get(rig, "/v1/models"))["data"][0]["state"] == state
    await rig.announce(a_view(PLAIN, ReplicaState.FAILED, reason="out of memory"))
    assert (await get(rig, "/v1/models"))["data"][0]["state"] == "cold"
    rig.feed.show(PLAIN, ORG, revision=2)
    assert len((await get(rig, "/v1/models"))["data"]) == 2


async def test_a_page_of_the_list(start_rig: StartRig) -> None:
    rig = await start_rig(*(a_model(f"m{pk}", pk) for pk in range(5)))
    first = await get(rig, "/v1/models?limit=2")
    assert ([model["id"] for model in first["data"]], first["has_more"]) == (["m0", "m1"], True)
    rest = await get(rig, "/v1/models?limit=10&after=m1")
    assert ([model["id"] for model in rest["data"]], rest["has_more"]) == (["m2", "m3", "m4"], False)


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=-1", "limit=999999999999", "after=nobody"])
async def test_a_wrong_page_is_named(start_rig: StartRig, query: str) -> None:
    rig = await start_rig(PLAIN)
    body = await get(rig, f"/v1/models?{query}", 400)
    assert body["error"]["param"] == query.partition("=")[0]


@pytest.mark.parametrize("path", ["org/m:Q4", "org%2Fm%3AQ4", "org/m%3aQ4"])
async def test_a_model_is_found_however_its_id_is_encoded(start_rig: StartRig, path: str) -> None:
    rig = await start_rig(ORG)
    assert (await get(rig, f"/v1/models/{path}"))["id"] == "org/m:Q4"
    assert (await get(rig, f"/v1/models/{path}/health"))["model_id"] == "org/m:Q4"
    assert (await get(rig, f"/v1/models/{path}/versions"))["data"][0]["id"] == "org/m:Q4@1.0.0"
    assert (await get(rig, f"/v1/models/{path}@1.0.0"))["promoted"] is True


async def test_models_that_are_called_like_our_paths_are_found(start_rig: StartRig) -> None:
    rig = await start_rig(a_model("default", 1), a_model("a/health", 2), a_model("a", 3))
    assert (await get(rig, "/v1/models/default"))["id"] == "default"
    assert (await get(rig, "/v1/models/a/health"))["id"] == "a/health"
    assert (await get(rig, "/v1/models/a/versions"))["data"][0]["model_id"] == "a"


@pytest.mark.parametrize("path", ["/v1/models/plan", "/v1/models/plan/versions", "/health/model/plan"])
async def test_an_unknown_model_is_not_found(start_rig: StartRig, path: str) -> None:
    rig = await start_rig(PLAIN)
    body = await get(rig, path, 404)
    assert body["error"]["code"] == "model_not_found"
    assert "'plain'" in body["error"]["message"]


async def test_a_refusal_is_logged_with_the_id_of_its_request(start_rig: StartRig) -> None:
    rig = await start_rig(PLAIN)
    with capture_logs() as lines:
        async with rig.client.get("/v1/models/plan", headers={"X-Request-ID": "req-1"}) as response:
            assert response.status == 404
    (line,) = [line for line in lines if line["event"] == "Refused a request"]
    assert (line["request_id"], line["status"], line["code"]) == ("req-1", 404, "model_not_found")


async def test_an_unknown_version_is_not_found(start_rig: StartRig) -> None:
    rig = await start_rig(PLAIN)
    assert (await get(rig, "/v1/models/plain@2.0.0", 404))["error"]["code"] == "version_not_found"


async def test_the_health_of_a_model_has_its_reasons(start_rig: StartRig) -> None:
    assert PLAIN.promoted is not None
    sick = replace(PLAIN.promoted, health=Health.DEGRADED, health_reason="slow", health_checked_at=1_700_000_000.0)
    rig = await start_rig(replace(PLAIN, promoted=sick))
    await rig.announce(a_view(PLAIN, ReplicaState.FAILED, reason="out of memory", retry_at=2_000_000_000.0))
    for path in ("/health/model/plain", "/v1/models/plain/health"):
        body = await get(rig, path)
        assert (body["health_status"], body["reasons"]) == ("degraded", ["slow", "out of memory"])
        assert body["checked_at"] == "2023-11-14T22:13:20.000Z"
        assert (body["state"], body["replica"]["state"]) == ("cold", "failed")


async def test_live_ready_and_overall_health(start_rig: StartRig) -> None:
    rig = await start_rig(PLAIN)
    assert (await get(rig, "/health/live"))["status"] == "ok"
    assert (await get(rig, "/health/ready"))["status"] == "ok"
    body = await get(rig, "/health")
    assert (body["status"], body["reasons"]) == ("ok", [])
    assert body["models"] == {"total": 1, "enabled": 1, "by_health": {"healthy": 1}, "by_state": {}}


async def test_every_enabled_model_is_counted_under_one_word(start_rig: StartRig) -> None:
    assert PLAIN.promoted is not None
    cut = replace(PLAIN.promoted, pk=3, health=Health.UNHEALTHY, health_reason="30.0 MB of 98.4 MB are there")
    broken = replace(a_model("broken", 3), promoted=None, versions={"1.0.0": cut})
    waiting = replace(a_model("waiting", 4), promoted=None)
    rig = await start_rig(PLAIN, broken, waiting, replace(a_model("off", 5), enabled=False))
    counts = (await get(rig, "/health"))["models"]
    assert (counts["total"], counts["enabled"]) == (4, 3)
    assert counts["by_health"] == {"healthy": 1, "unhealthy": 1, "not_promoted": 1}


async def test_a_broken_file_is_told_with_its_reason_wherever_its_model_is_shown(start_rig: StartRig) -> None:
    assert PLAIN.promoted is not None
    why = "30.0 MB of 98.4 MB are there: it is still being copied, or was truncated"
    cut = replace(PLAIN.promoted, health=Health.UNHEALTHY, health_reason=why)
    rig = await start_rig(replace(PLAIN, promoted=None, versions={"1.0.0": cut}))
    assert (await get(rig, "/v1/models"))["data"][0]["reason"] == why
    assert (await get(rig, "/v1/models/plain/health"))["reasons"] == [why]
    request = {"model": "plain", "messages": [{"role": "user", "content": "Hello!"}]}
    async with rig.client.post("/v1/chat/completions", json=request) as response:
        assert (response.status, why in (await response.json())["error"]["message"]) == (503, True)


async def test_a_version_that_waits_for_its_promotion_says_how(start_rig: StartRig) -> None:
    rig = await start_rig(replace(PLAIN, promoted=None))
    (reason,) = (await get(rig, "/health/model/plain"))["reasons"]
    assert reason.endswith("manage.py models promote plain@1.0.0")


async def test_health_tells_that_the_supervisor_is_away(start_rig: StartRig) -> None:
    rig = await start_rig(PLAIN)
    await rig.supervisor.stop()
    await until(lambda: not rig.gateway.nodes.connected)
    body = await get(rig, "/health")
    assert body["status"] == "degraded"
    assert "supervisor can't be reached since" in body["reasons"][0]
    await rig.supervisor.start()
    await until(lambda: rig.gateway.nodes.connected)
    assert (await get(rig, "/health"))["status"] == "ok"


async def test_head_is_get_without_a_body(start_rig: StartRig) -> None:
    rig = await start_rig(PLAIN)
    async with rig.client.head("/v1/models") as response:
        assert (response.status, await response.read()) == (200, b"")
