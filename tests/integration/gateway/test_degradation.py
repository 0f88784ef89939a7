"""What becomes of requests near a model's limit, and in an emergency. SQL is played by the test."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from inference.gateway.estimates import STEP_TOKENS
from quotas.limits import DegradationPolicy, ModelLimits, ModelQuota, SoftLimits, limits_of
from quotas.modes import Level
from quotas.treasury import Reading
from quotas.windows import Period, Window, window_at
from tests.catalogue import a_model, a_version
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig
from tests.waiting import until

BIG = a_model("Big", a_version("Big", 1))
SMALL = a_model("Small", a_version("Small", 2))
LIMIT = 3600 * 100
"""Tokens an hour: 50 a second when throttled, 25 when aggressively."""


def limits(pk: int = 1, model: str = "Big", **quota: Any) -> ModelLimits:
    policy = DegradationPolicy(**quota.pop("policy", {}))
    quota = {"hourly_token_limit": LIMIT, "degradation_policy": policy, **quota}
    return limits_of(model_pk=pk, model=model, quota=ModelQuota(**quota))


async def degrading(start_rig: StartRig, percent: float, *stub: str, **quota: Any) -> Rig:
    """A rig whose model ``Big`` has so much of its hour used, by another gateway."""
    rig = await start_rig(BIG, SMALL)
    await rig.worker(BIG, *stub)
    await rig.worker(SMALL)
    rig.feed.limit(Big=limits(**quota), Small=limits(2, "Small"))
    read(rig, percent)
    return rig


def read(rig: Rig, percent: float) -> None:
    reading = a_reading(rig, percent)
    rig.leases.taken[reading.account, reading.window.starts_at] = reading.used
    rig.gateway.promises.read([reading])


def a_reading(rig: Rig, percent: float, pk: int = 1) -> Reading:
    used = int(LIMIT * percent / 100)
    account = f"model:{pk}/tokens/hour"
    return Reading(account=account, window=hour(rig), used=used, reserved=0, gateways=1)


def hour(rig: Rig) -> Window:
    return window_at(Period.HOUR, time.time(), rig.gateway.promises._zone)


async def ask(rig: Rig, **fields: Any) -> Any:
    response, body = await rig.chat(**{"model": "Big", "max_tokens": 3, **fields})
    return response, body


@pytest.mark.parametrize(
    ("percent", "mode"), [(79.0, None), (80.0, "soft_limit"), (85.0, "soft_limit"), (90.0, "throttled")]
)
async def test_a_client_is_told_the_mode_once_a_soft_limit_is_passed(
    start_rig: StartRig, percent: float, mode: str | None
) -> None:
    rig = await degrading(start_rig, percent)
    response, _ = await ask(rig)
    assert response.status == 200
    assert response.headers.get("X-NOpenAI-Quota-Mode") == mode


async def test_each_level_is_told_once_as_it_is_reached(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 81.0)
    for percent in (81.5, 86.0, 84.9, 85.5, 96.0):
        read(rig, percent)
    assert [reached.level for reached in rig.leases.reached_levels] == [Level.INFO, Level.WARN, Level.AGGRESSIVE]


async def test_throttled_requests_keep_half_of_the_even_pace(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 91.0)
    began = time.monotonic()
    answers = await asyncio.gather(*(ask(rig, max_tokens=10) for _ in range(6)))
    took = time.monotonic() - began
    assert [response.status for response, _ in answers] == [200] * 6
    waited = [response for response, _ in answers if response.headers.get("X-NOpenAI-Degraded") == "paced"]
    assert len(waited) == 5, "the first one need not wait"
    # An estimate of about 37 tokens is promised to each, of which it gives most back: it used 4 or 5.
    assert took > 5 * 4 / 50


async def test_who_would_wait_too_long_for_the_pace_is_refused_and_told_when(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 96.0, "--hang-after", "1", policy={"queue_seconds": 0.5})
    first = asyncio.create_task(ask(rig, max_tokens=3000))
    await until(lambda: bool(rig.gateway.degradation._turnstiles))
    response, body = await ask(rig)
    assert (response.status, body["error"]["code"]) == (429, "rate_limited")
    assert 60 < int(response.headers["Retry-After"]) < 140, "3,000 tokens at 25 a second"
    assert response.headers["X-NOpenAI-Quota-Mode"] == "throttled"
    assert "near its hourly_token_limit" in body["error"]["message"]
    assert "degradation_policy.pace" in body["error"]["message"]
    first.cancel()


async def test_what_a_request_waits_for_its_pace_is_told_as_waiting(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 91.0)
    answers = await asyncio.gather(*(ask(rig, max_tokens=10) for _ in range(3)))
    waited = [float(response.headers["X-NOpenAI-Queue-Ms"]) for response, _ in answers]
    assert max(waited) > 4 / 50 * 1000, "two have used some four tokens each at 50 a second"


async def test_so_many_wait_while_a_model_is_throttled_and_no_more(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 91.0, policy={"queue_length": 4})
    statuses = [response.status for response, _ in await asyncio.gather(*(ask(rig) for _ in range(12)))]
    assert statuses.count(200) == 5, "one at once, four that may wait"
    assert statuses.count(429) == 7


async def test_without_throttling_nothing_is_slowed_down(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 96.0, throttling_enabled=False)
    answers = await asyncio.gather(*(ask(rig, max_tokens=100) for _ in range(5)))
    assert {response.headers.get("X-NOpenAI-Degraded") for response, _ in answers} == {None}
    assert answers[0][0].headers["X-NOpenAI-Quota-Mode"] == "soft_limit"


async def test_answers_are_capped_while_throttled(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 91.0, policy={"max_tokens_cap": 2, "pace": False})
    response, body = await ask(rig, max_tokens=100, ignore_eos=True)
    assert body["usage"]["completion_tokens"] == 2
    assert body["choices"][0]["finish_reason"] == "length"
    assert response.headers["X-NOpenAI-Degraded"] == "capped"
    response, _ = await ask(rig, max_tokens=1)
    assert "X-NOpenAI-Degraded" not in response.headers


async def test_who_is_refused_though_the_answer_was_capped_is_told_so(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 91.0, policy={"max_tokens_cap": 20, "pace": False})
    rig.leases.taken["model:1/tokens/hour", hour(rig).starts_at] = LIMIT
    response, body = await ask(rig, max_tokens=100)
    assert response.status == 429 and "capped at 20 tokens" in body["error"]["message"]


async def test_a_smaller_sibling_answers_while_a_model_is_throttled(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 91.0, policy={"sibling": "Small"})
    response, body = await ask(rig)
    assert (response.headers["X-NOpenAI-Model"], body["model"]) == ("Small", "Small")
    assert response.headers["X-NOpenAI-Degraded"] == "sibling"
    assert response.headers["X-NOpenAI-Quota-Mode"] == "throttled", "the mode of the model that was asked"
    ledger = rig.gateway.promises._ledger
    ledger.empty_purses()
    assert {b.account.key: b.spent for b in ledger.balances()} == {"model:2/tokens/hour": body["usage"]["total_tokens"]}


async def test_no_sibling_answers_who_asks_for_a_version(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 91.0, policy={"sibling": "Small", "pace": False})
    response, _ = await ask(rig, model="Big@1.0.0")
    assert response.headers["X-NOpenAI-Model"] == "Big"


async def test_a_sibling_that_is_throttled_itself_is_no_help(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 91.0, policy={"sibling": "Small", "pace": False})
    readings = [a_reading(rig, 92.0, pk) for pk in (1, 2)]
    rig.gateway.promises.read(readings)
    response, _ = await ask(rig)
    assert response.headers["X-NOpenAI-Model"] == "Big"


async def test_a_sibling_answers_when_nothing_is_left_though_nobody_had_read_that_yet(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 0.0, policy={"sibling": "Small"})
    rig.leases.taken["model:1/tokens/hour", hour(rig).starts_at] = LIMIT
    response, _ = await ask(rig)
    assert (response.status, response.headers["X-NOpenAI-Model"]) == (200, "Small")


async def test_at_the_hard_limit_a_request_waits_if_the_policy_says_so(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 0.0, policy={"at_hard_limit": "queue", "pace": False}, throttling_enabled=False)
    window = hour(rig)
    key = "model:1/tokens/hour", window.starts_at
    rig.leases.taken[key] = LIMIT
    asking = asyncio.create_task(ask(rig))
    await until(lambda: rig.leases.asked >= 2)
    assert not asking.done()
    rig.leases.taken[key] -= 500  # somebody has given back
    response, _ = await asking
    assert response.status == 200


async def test_at_the_hard_limit_nobody_waits_longer_than_the_policy_says(start_rig: StartRig) -> None:
    policy = {"at_hard_limit": "queue", "queue_seconds": 0.6}
    rig = await degrading(start_rig, 0.0, policy=policy, throttling_enabled=False)
    rig.leases.taken["model:1/tokens/hour", hour(rig).starts_at] = LIMIT
    response, body = await ask(rig)
    assert (response.status, body["error"]["code"]) == (429, "quota_exceeded")


@pytest.mark.parametrize(("window", "promised", "waits"), [("long", 0, False), ("long", 100, True), ("ends", 0, True)])
async def test_nobody_waits_at_the_hard_limit_for_what_can_not_come(
    start_rig: StartRig, monkeypatch: pytest.MonkeyPatch, window: str, promised: int, waits: bool
) -> None:
    monkeypatch.setattr("inference.gateway.degradation.RETURN_SECONDS", 0.1)
    rig = await degrading(start_rig, 0.0)
    left = hour(rig).ends_at - time.time()
    policy = {"at_hard_limit": "queue", "queue_seconds": 2 * left if window == "ends" else left / 2, "pace": False}
    rig.feed.limit(Big=limits(policy=policy, throttling_enabled=False))
    rig.leases.taken["model:1/tokens/hour", hour(rig).starts_at] = LIMIT
    reading = msgspec.structs.replace(a_reading(rig, 100.0), reserved=promised)
    rig.gateway.promises.read([reading])
    asking = asyncio.create_task(ask(rig))
    if not waits:
        response, body = await asking
        assert (response.status, body["error"]["code"]) == (429, "quota_exceeded")
        return
    asked = rig.leases.asked
    await until(lambda: rig.leases.asked > asked + 4)
    assert not asking.done()
    asking.cancel()


@pytest.mark.parametrize("cause", ["declared", "memory"])
async def test_in_an_emergency_only_urgent_requests_are_served(start_rig: StartRig, cause: str) -> None:
    rig = await degrading(start_rig, 0.0)
    if cause == "declared":
        rig.feed.declare_emergency("the cooling failed")
    else:
        rig.supervisor.press("12 MB of this node's 1000 MB of memory are left")
        await until(lambda: bool(rig.gateway.nodes.own.pressure))
    response, body = await ask(rig)
    assert (response.status, body["error"]["code"]) == (503, "emergency")
    assert ("cooling" if cause == "declared" else "12 MB") in body["error"]["message"]
    assert "priority of 8 and above are served now, and this one's is 5:" in body["error"]["message"]
    assert response.headers["X-NOpenAI-Quota-Mode"] == "emergency"
    assert (await ask(rig, priority=8))[0].status == 200
    rig.feed.declare_emergency("")
    rig.supervisor.press("")
    await until(lambda: not rig.gateway.degradation.emergency)
    assert (await ask(rig))[0].status == 200


async def test_a_window_that_has_ended_slows_nobody_down(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 96.0)
    standings = rig.gateway.promises.standings
    assert standings.of("Big", time.time()).level is Level.AGGRESSIVE
    assert standings.of("Big", hour(rig).ends_at).level is Level.NONE


async def test_soft_limits_are_the_models_own(start_rig: StartRig) -> None:
    soft = SoftLimits(info=10, warn=20, throttle=30, aggressive_throttle=40)
    rig = await degrading(start_rig, 31.0, soft_limits=soft)
    response, _ = await ask(rig)
    assert response.headers["X-NOpenAI-Quota-Mode"] == "throttled"


async def test_what_is_leased_tells_of_a_soft_limit_before_it_is_read(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 0.0, hourly_token_limit=1000)
    for _ in range(3):
        await ask(rig, max_tokens=STEP_TOKENS, ignore_eos=True)
    response, _ = await ask(rig, max_tokens=1)
    assert response.headers["X-NOpenAI-Quota-Mode"] in ("soft_limit", "throttled")


async def test_how_models_stand_is_told_as_json_and_to_prometheus(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 91.0, max_concurrent_requests=7)
    await ask(rig)
    async with rig.client.get("/metrics/quotas?detailed=true") as response:
        report = await response.json()
    big = report["per_model"]["Big"]
    assert (big["mode"], big["level"], round(big["percent"])) == ("throttled", "throttle", 91)
    assert big["remaining_tokens"] == LIMIT - LIMIT * 91 // 100
    assert [each["type"] for each in big["limits"]] == ["hourly", "concurrent"]
    assert "NOPENAI_PROFILE" in report["profiling"]
    async with rig.client.get("/metrics") as response:
        text = await response.text()
    assert 'nopenai_quota_usage_percent{model="Big",type="hourly"} 91' in text
    assert f'nopenai_quota_remaining_tokens{{model="Big"}} {big["remaining_tokens"]}' in text
    assert 'nopenai_quota_mode{model="Big",mode="throttled"} 1' in text
    assert "nopenai_emergency 0" in text
    assert 'nopenai_quota_mode{model="Small",mode="normal"} 1' in text


async def test_health_tells_of_an_emergency_and_what_happens_without_postgresql(start_rig: StartRig) -> None:
    rig = await degrading(start_rig, 0.0)
    rig.feed.declare_emergency("drill")
    async with rig.client.get("/health") as response:
        health = await response.json()
    assert health["status"] == "degraded"
    async with rig.client.get("/metrics") as response:
        assert "nopenai_emergency 1" in await response.text()
    assert "Only urgent requests are served: drill." in health["reasons"]
    assert health["quotas"]["on_database_loss"] == {"Big": "closed", "Small": "closed"}
