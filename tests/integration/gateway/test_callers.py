"""What keys and tenants are held to, and what is counted of them. SQL is played by the test."""

import asyncio
import time
import uuid
from typing import Any

import msgspec
import pytest

from quotas.caller_limits import limits_of
from quotas.callers import Caller, Role, digest
from quotas.limits import ModelQuota
from quotas.limits import limits_of as model_limits_of
from registry.catalogue import Allowed
from registry.tickets import TICKET_SECONDS, ticket_make
from tests.catalogue import a_model, a_version
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig
from tests.waiting import until

ONE = a_model("One", a_version("One", 1, capabilities=frozenset({"chat", "completion", "embedding"})))
TWO = a_model("Two", a_version("Two", 2))
LINE = uuid.UUID(int=7).hex


def secret(name: str) -> str:
    return f"nok_{name * 12}"


def a_caller(
    name: str = "k",
    *,
    pk: int = 1,
    tenant: str = "acme",
    of_key: dict[str, int] | None = None,
    of_tenant: dict[str, int] | None = None,
    line: str = LINE,
    **more: Any,
) -> dict[str, Caller]:
    key = limits_of(subject=f"key:{line}", owner=f"The API key nok_{name}…", limits=of_key or {})
    own = limits_of(subject=f"tenant:{tenant}", owner=f"The tenant '{tenant}'", limits=of_tenant or {})
    caller = Caller(
        key_pk=pk,
        tenant=tenant,
        role=Role.INFERENCE,
        prefix=f"nok_{name}",
        expires_at=None,
        accounts=key.accounts + own.accounts,
        permits=key.permits + own.permits,
        **more,
    )
    return {digest(secret(name)): caller}


async def serving(start_rig: StartRig, callers: dict[str, Caller], *stub: str) -> Rig:
    rig = await start_rig(ONE, TWO, callers=callers, require_api_key=True)
    await rig.worker(ONE, *stub)
    await rig.worker(TWO)
    return rig


async def ask(rig: Rig, name: str = "k", **fields: Any) -> Any:
    body = {"model": "One", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 3, **fields}
    headers = {"Authorization": f"Bearer {secret(name)}"}
    async with rig.client.post("/v1/chat/completions", json=body, headers=headers) as response:
        return response, await response.json()


@pytest.mark.parametrize("period", ["minute", "hour", "day", "month"])
async def test_a_key_has_no_more_requests_than_its_limit(start_rig: StartRig, period: str) -> None:
    rig = await serving(start_rig, a_caller(of_key={f"requests_per_{period}": 2}))
    assert [(await ask(rig, model=model))[0].status for model in ("One", "Two")] == [200, 200]
    response, body = await ask(rig)
    assert response.status == 429
    assert body["error"]["code"] == ("rate_limited" if period == "minute" else "quota_exceeded")
    assert f"The API key nok_k… has 0 requests left of its requests_per_{period} of 2" in body["error"]["message"]
    assert response.headers["x-ratelimit-limit-requests"] == "2"
    assert int(response.headers["Retry-After"]) > 0


async def test_a_tenant_has_no_more_tokens_than_its_limit_with_all_its_keys(start_rig: StartRig) -> None:
    limit = {"tokens_per_day": 45}
    callers = a_caller("k", of_tenant=limit) | a_caller("l", pk=2, line=uuid.UUID(int=8).hex, of_tenant=limit)
    rig = await serving(start_rig, callers)
    assert (await ask(rig, "k"))[0].status == 200
    assert (await ask(rig, "l"))[0].status == 200
    response, body = await ask(rig, "l", max_tokens=10)
    assert response.status == 429
    assert "The tenant 'acme' has 37 tokens left" in body["error"]["message"]


async def test_a_rotated_key_shares_the_limits_of_the_one_before(start_rig: StartRig) -> None:
    limit = {"requests_per_hour": 2}
    rig = await serving(start_rig, a_caller("k", of_key=limit) | a_caller("n", pk=2, of_key=limit))
    assert [(await ask(rig, name))[0].status for name in ("k", "n", "k", "n")] == [200, 200, 429, 429]


async def test_a_key_that_has_nothing_left_takes_nothing_from_its_model(start_rig: StartRig) -> None:
    rig = await serving(start_rig, a_caller(of_key={"requests_per_hour": 1}))
    rig.feed.limit(One=model_limits_of(model_pk=1, model="One", quota=ModelQuota(hourly_request_limit=10)))
    assert [(await ask(rig))[0].status for _ in range(3)] == [200, 429, 429]
    spent = {b.account.key: b.spent for b in rig.gateway.promises._ledger.balances()}
    assert spent["model:1/requests/hour"] == 1


@pytest.mark.parametrize(
    ("allowed", "fields", "status"),
    [
        (Allowed(models=frozenset({"One"})), {"model": "One"}, 200),
        (Allowed(models=frozenset({"One"})), {"model": "One@1.0.0"}, 200),
        (Allowed(models=frozenset({"One"})), {"model": "Two"}, 403),
        (Allowed(models=frozenset({"Two"})), {"model": "auto"}, 200),
        (Allowed(models=frozenset()), {"model": "One"}, 403),
        (Allowed(models=frozenset(), routes=None), {"model": "auto"}, 503),
        (Allowed(routes=frozenset()), {"model": "auto"}, 403),
        (Allowed(routes=frozenset()), {"model": "One"}, 200),
        (Allowed(routes=frozenset({"auto"})), {"model": "auto"}, 200),
    ],
)
async def test_a_key_may_ask_for_what_it_is_allowed(
    start_rig: StartRig, allowed: Allowed, fields: dict[str, Any], status: int
) -> None:
    rig = await serving(start_rig, a_caller(allowed=allowed))
    for _ in range(3):
        response, body = await ask(rig, **fields)
        assert response.status == status, body
        if status == 403:
            assert body["error"]["code"] == "permission_denied"
        if allowed.models == frozenset({"Two"}):
            assert body["model"] == "Two"


async def test_a_key_sees_the_models_that_it_may_ask_for(start_rig: StartRig) -> None:
    rig = await serving(start_rig, a_caller(allowed=Allowed(models=frozenset({"Two"}))))
    headers = {"Authorization": f"Bearer {secret('k')}"}
    for query in ("", "?limit=10"):
        async with rig.client.get(f"/v1/models{query}", headers=headers) as response:
            assert [model["id"] for model in (await response.json())["data"]] == ["Two"]
    for path, status in (("Two", 200), ("One", 403), ("One/versions", 403), ("One/health", 403), ("Nope", 403)):
        async with rig.client.get(f"/v1/models/{path}", headers=headers) as response:
            assert response.status == status, path


async def test_a_key_s_own_cap_bounds_its_priority(start_rig: StartRig) -> None:
    rig = await serving(start_rig, a_caller("k", max_priority=5) | a_caller("v", pk=2, max_priority=9))
    rig.feed.declare_emergency("drill")
    assert [(await ask(rig, name, priority=10))[0].status for name in ("k", "v")] == [503, 200]


async def test_requests_beyond_a_concurrency_limit_wait_for_their_turn(start_rig: StartRig) -> None:
    rig = await serving(start_rig, a_caller(of_key={"max_concurrent_requests": 2}), "--token-seconds", "0.01")
    office = rig.supervisor.permitting.office
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            await asyncio.sleep(0)
            most = max(most, rig.gateway.permits.in_use(f"key:{LINE}"))

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*(ask(rig, max_tokens=5, ignore_eos=True) for _ in range(8)))
    watching.cancel()
    assert [response.status for response, _ in answers] == [200] * 8
    assert most == 2
    rig.gateway.permits.keep_up()
    assert office.waiting == 0


async def test_a_client_that_leaves_makes_room(start_rig: StartRig) -> None:
    callers = a_caller(of_key={"max_concurrent_requests": 1}) | a_caller("o", pk=2, line=uuid.UUID(int=8).hex)
    rig = await serving(start_rig, callers, "--hang-after", "1")
    hanging = asyncio.create_task(ask(rig))
    await until(lambda: rig.gateway.permits.in_use(f"key:{LINE}") == 1)
    waiting = asyncio.create_task(ask(rig))
    await until(lambda: rig.supervisor.permitting.office.waiting == 1)
    hanging.cancel()
    await until(lambda: rig.supervisor.permitting.office.waiting == 0)
    assert rig.gateway.permits.in_use(f"key:{LINE}") == 1
    waiting.cancel()
    await until(lambda: rig.gateway.permits.in_use(f"key:{LINE}") == 0)


async def test_what_each_key_used_is_counted(start_rig: StartRig) -> None:
    rig = await serving(start_rig, a_caller(of_key={"requests_per_hour": 2}))
    await ask(rig)
    await ask(rig, "k", stream=False, model="Two")
    await ask(rig)
    rig.gateway._usage_feed.write(rig.gateway._usage.take())
    by_model = {key.model: (key.key_pk, key.tenant, counts) for key, counts in rig.usage.counts.items()}
    assert by_model.keys() == {"One", "Two"}
    key_pk, tenant, counts = by_model["One"]
    assert (key_pk, tenant) == (1, "acme")
    assert (counts.requests, counts.prompt_tokens, counts.completion_tokens) == (1, 1, 3)
    assert (counts.errors, counts.refused) == (0, 1)
    assert counts.seconds > 0


async def test_a_request_that_a_worker_failed_at_is_counted_as_an_error(start_rig: StartRig) -> None:
    rig = await serving(start_rig, a_caller(), "--fail-after", "1")
    response, _ = await ask(rig)
    assert response.status == 500
    rig.gateway._usage_feed.write(rig.gateway._usage.take())
    (counts,) = rig.usage.counts.values()
    assert (counts.requests, counts.errors) == (1, 1)


@pytest.mark.parametrize(
    "where", ["/v1/models?api_key={}", "/v1/chat/completions?k={}", "/v1/models/{}", "/health?x={}"]
)
async def test_a_key_in_a_url_is_refused_with_advice(start_rig: StartRig, where: str) -> None:
    rig = await serving(start_rig, a_caller())
    key = "nok_" + "a1B2_-" * 7 + "c"
    async with rig.client.get(where.format(key)) as response:
        body = await response.json()
    assert (response.status, body["error"]["code"]) == (400, "key_in_url")
    assert "Authorization: Bearer" in body["error"]["message"] and "rotate" in body["error"]["message"]
    assert key not in str(body)


async def test_who_is_signed_in_asks_with_a_ticket_for_what_operators_may_see(start_rig: StartRig) -> None:
    rig = await start_rig(ONE, callers={}, require_api_key=True, ticket_key=b"the installation's")
    await rig.worker(ONE)

    async def status(path: str, ticket: str, method: str = "GET") -> int:
        headers = {"Authorization": f"Bearer {ticket}"}
        async with rig.client.request(method, path, headers=headers) as response:
            return response.status

    good = ticket_make("root", b"the installation's", time.time())
    assert await status("/metrics/routing", good) == 200
    assert await status("/v1/chat/completions", good, "POST") == 401, "it is no key"
    for bad in (
        ticket_make("root", b"the installation's", time.time() - TICKET_SECONDS),
        ticket_make("root", b"another one's", time.time()),
        good[:-2],
    ):
        assert await status("/metrics/routing", bad) == 401


STRANGERS, MEMBERS, OPERATORS = "strangers", "members", "operators"
MATRIX = {
    ("POST", "/v1/chat/completions"): MEMBERS,
    ("POST", "/v1/completions"): MEMBERS,
    ("POST", "/v1/embeddings"): MEMBERS,
    ("GET", "/v1/models"): MEMBERS,
    ("GET", "/v1/models/"): MEMBERS,
    ("GET", "/cache/stats"): OPERATORS,
    ("GET", "/metrics"): OPERATORS,
    ("GET", "/metrics/cache"): OPERATORS,
    ("GET", "/metrics/quotas"): OPERATORS,
    ("GET", "/metrics/routing"): OPERATORS,
    ("GET", "/routing/stats"): OPERATORS,
    ("POST", "/routing/explain"): OPERATORS,
    ("GET", "/health"): STRANGERS,
    ("GET", "/health/live"): STRANGERS,
    ("GET", "/health/ready"): STRANGERS,
    ("GET", "/health/model/"): STRANGERS,
}
"""Who may use each endpoint of the gateway, where keys are required. All roles have what those before them have."""

EXPECTED = {
    "nobody": {STRANGERS: 200, MEMBERS: 401, OPERATORS: 401},
    "unknown": {STRANGERS: 200, MEMBERS: 401, OPERATORS: 401},
    "expired": {STRANGERS: 200, MEMBERS: 401, OPERATORS: 401},
    "inference": {STRANGERS: 200, MEMBERS: 200, OPERATORS: 403},
    "operator": {STRANGERS: 200, MEMBERS: 200, OPERATORS: 200},
    "admin": {STRANGERS: 200, MEMBERS: 200, OPERATORS: 200},
}


@pytest.mark.parametrize("tenant", ["acme", "other"])
async def test_who_may_do_what_at_every_endpoint_of_the_gateway(start_rig: StartRig, tenant: str) -> None:
    callers: dict[str, Caller] = {}
    for pk, role in enumerate(Role, 1):
        (known,) = a_caller(role.value, pk=pk, tenant=tenant).values()
        callers[digest(secret(role.value))] = msgspec.structs.replace(known, role=role)
    (expired,) = a_caller("expired", pk=9, tenant=tenant).values()
    callers[digest(secret("expired"))] = msgspec.structs.replace(expired, role=Role.ADMIN, expires_at=1.0)
    rig = await serving(start_rig, callers)
    served = {(method, path) for path, (methods, _) in rig.gateway.routes.items() for method in methods}
    served |= {(method, path) for path, (methods, _) in rig.gateway.routes_below.items() for method in methods}
    assert {each for each in served if each[0] != "HEAD"} == MATRIX.keys()
    for (method, path), needed in MATRIX.items():
        for who, statuses in EXPECTED.items():
            headers = {} if who == "nobody" else {"Authorization": f"Bearer {secret(who)}"}
            body = BODIES.get(path)
            where = f"{path}One" if path.endswith("/") else path
            async with rig.client.request(method, where, json=body, headers=headers) as response:
                assert response.status == statuses[needed], (method, path, who, await response.text())


BODIES = {
    "/v1/chat/completions": {"model": "One", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 1},
    "/v1/completions": {"model": "One", "prompt": "Hello!", "max_tokens": 1},
    "/v1/embeddings": {"model": "One", "input": "Hello!"},
}


async def test_in_an_emergency_a_key_that_may_not_be_urgent_enough_is_told_so(start_rig: StartRig) -> None:
    rig = await serving(start_rig, a_caller(max_priority=5))
    rig.feed.declare_emergency("the cooling failed")
    response, body = await ask(rig, priority=9)
    assert response.status == 503
    assert "this one's is 5, the most that its API key may have: the cooling failed" in body["error"]["message"]
