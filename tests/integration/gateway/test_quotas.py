"""Limits of a model on real requests: admitted, granted in steps, charged what was used. SQL is played by the test."""

import asyncio
from typing import Any

import aiohttp
import pytest

from inference.gateway.estimates import STEP_TOKENS
from quotas.ledger import Account, Unit
from quotas.limits import ModelLimits, ModelQuota, OnDatabaseLoss, limits_of
from quotas.windows import Period
from tests.catalogue import a_model, a_version
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig
from tests.waiting import until

TINY = a_model("Tiny", a_version("Tiny", 1, capabilities=frozenset({"chat", "completion", "embedding"})))
HELLO_TOKENS = 1 + 3
"""Of the stub's prompt ``Hello!`` and its answer."""


def limits(**quota: Any) -> ModelLimits:
    return limits_of(model_pk=1, model="Tiny", quota=ModelQuota(**quota))


async def limited(start_rig: StartRig, *stub: str, **quota: Any) -> Rig:
    rig = await start_rig(TINY)
    await rig.worker(TINY, *stub)
    rig.feed.limit(Tiny=limits(**quota))
    return rig


def used(rig: Rig, unit: Unit = Unit.TOKENS) -> int:
    """What was charged to the only lease of a unit."""
    (balance,) = (b for b in rig.gateway.promises._ledger.balances() if b.account.unit is unit)
    assert balance.reserved == 0, "something still runs"
    return balance.spent


def settled(rig: Rig) -> bool:
    return all(balance.reserved == 0 for balance in rig.gateway.promises._ledger.balances())


def error(body: Any) -> str:
    code: str = body["error"]["code"]
    return code


async def test_a_request_is_charged_what_it_used(start_rig: StartRig) -> None:
    rig = await limited(start_rig, hourly_token_limit=10_000, daily_request_limit=5)
    response, _ = await rig.chat()
    assert response.status == 200
    assert (used(rig), used(rig, Unit.REQUESTS)) == (HELLO_TOKENS, 1)
    assert response.headers["x-ratelimit-limit-tokens"] == "10000"
    assert int(response.headers["x-ratelimit-remaining-tokens"]) <= 10_000 - HELLO_TOKENS
    assert response.headers["x-ratelimit-remaining-requests"] == "4"
    assert 0 < int(response.headers["x-ratelimit-reset-tokens"].removesuffix("s")) <= 3600


async def test_streams_completions_of_several_prompts_and_embeddings_are_charged_too(start_rig: StartRig) -> None:
    rig = await limited(start_rig, hourly_token_limit=10_000)
    await rig.streamed()
    assert used(rig) == HELLO_TOKENS
    for path, body in (
        ("/v1/completions", {"prompt": ["one two", "three"], "max_tokens": 2}),
        ("/v1/embeddings", {"input": ["one two three", "four"]}),
    ):
        async with rig.client.post(path, json=body) as response:
            assert response.status == 200, await response.text()
            await response.read()
    assert used(rig) == HELLO_TOKENS + (2 + 1 + 2 * 2) + 4


async def test_above_a_limit_a_request_is_refused_with_the_limit_and_its_end(start_rig: StartRig) -> None:
    rig = await limited(start_rig, hourly_request_limit=2)
    for _ in range(2):
        assert (await rig.chat())[0].status == 200
    response, body = await rig.chat()
    assert (response.status, error(body)) == (429, "quota_exceeded")
    assert body["error"]["type"] == "rate_limit_error"
    assert "The model 'Tiny' has 0 requests left of its hourly_request_limit of 2" in body["error"]["message"]
    assert body["error"]["message"].endswith("try again then, or have the limit raised.")
    assert 0 < int(response.headers["Retry-After"]) <= 3600
    assert response.headers["x-ratelimit-remaining-requests"] == "0"


@pytest.mark.parametrize("max_tokens", [1000, 2**31 - 1])
async def test_more_than_is_left_is_refused_and_less_is_served(start_rig: StartRig, max_tokens: int) -> None:
    rig = await limited(start_rig, hourly_token_limit=200)
    response, body = await rig.chat(max_tokens=max_tokens)
    assert (response.status, error(body)) == (429, "quota_exceeded")
    assert (await rig.chat(max_tokens=10))[0].status == 200
    assert used(rig) == HELLO_TOKENS


async def test_what_was_leased_for_one_that_is_refused_is_there_for_the_next(start_rig: StartRig) -> None:
    rig = await limited(start_rig, hourly_token_limit=50)
    promises = rig.gateway.promises
    assert (await rig.chat(max_tokens=12))[0].status == 200
    promises.keep_up()
    for _ in range(2):  # the first leases all that is left, in vain
        assert (await rig.chat(max_tokens=13))[0].status == 429
        promises.keep_up()
        for balance in promises._ledger.balances():
            balance.refused_at = float("-inf")  # some moments pass
    assert list(rig.leases.taken.values()) == [HELLO_TOKENS]
    assert (await rig.chat(max_tokens=3))[0].status == 200


async def test_what_cannot_be_kept_account_of_is_not_promised_and_goes_back(start_rig: StartRig) -> None:
    rig = await limited(start_rig, hourly_token_limit=10_000)
    rig.leases.journal_full = True
    response, body = await rig.chat(max_tokens=3)
    assert (response.status, error(body)) == (503, "quota_unavailable")
    rig.gateway.promises.keep_up()
    assert set(rig.leases.taken.values()) == {0}
    rig.leases.journal_full = False
    assert (await rig.chat(max_tokens=3))[0].status == 200


@pytest.mark.parametrize(
    ("limit", "advice", "param"),
    [
        ("daily_token_limit", "ask for fewer tokens, or have the limit raised.", "max_tokens"),
        ("daily_request_limit", "this is one more: have the limit raised.", None),
    ],
)
async def test_a_limit_of_zero_serves_nobody_and_is_told_as_it_is(
    start_rig: StartRig, limit: str, advice: str, param: str | None
) -> None:
    rig = await limited(start_rig, **{limit: 0})
    response, body = await rig.chat(max_tokens=1)
    assert response.status == 429
    assert body["error"]["message"].endswith(advice)
    assert body["error"]["param"] == param
    assert "Retry-After" not in response.headers, "waiting helps nobody"


async def test_without_max_tokens_an_answer_is_granted_in_steps_and_ends_where_the_limit_does(
    start_rig: StartRig,
) -> None:
    rig = await limited(start_rig, hourly_token_limit=2_000)
    _, body = await rig.chat(ignore_eos=True)
    assert body["choices"][0]["finish_reason"] == "length"
    assert used(rig) == body["usage"]["total_tokens"]
    assert 2_000 - STEP_TOKENS < used(rig) <= 2_000


async def test_a_prompt_that_is_longer_than_was_estimated_is_asked_for_again(start_rig: StartRig) -> None:
    """The stub takes each word for a token: these have two characters, with the blank between them."""
    words = " ".join("x" * 900)
    rig = await limited(start_rig, hourly_token_limit=10_000)
    assert (await rig.chat(words, max_tokens=3))[0].status == 200
    assert used(rig) == 903
    rig.feed.limit(Tiny=limits(hourly_token_limit=1_000 + 700))
    response, body = await rig.chat(words, max_tokens=3)
    assert (response.status, error(body)) == (429, "quota_exceeded")
    assert "hourly_token_limit of 1700" in body["error"]["message"]
    await until(lambda: settled(rig))
    assert used(rig) == 903


@pytest.mark.parametrize(
    ("content", "fields", "told"),
    [
        ("Hello!", {"max_tokens": 50}, "at least 51 tokens"),
        (" ".join("x" * 60), {"max_tokens": 3}, "burst_token_limit"),
        ("Hello!", {"max_tokens": 30, "n": 2}, "at least 61 tokens"),
    ],
)
async def test_one_request_has_no_more_than_the_burst(
    start_rig: StartRig, content: str, fields: dict[str, Any], told: str
) -> None:
    rig = await limited(start_rig, burst_token_limit=50)
    response, body = await rig.chat(content, **fields)
    assert (response.status, error(body)) == (429, "quota_exceeded")
    assert told in body["error"]["message"]
    assert (await rig.chat())[0].status == 200


async def test_a_client_that_leaves_is_charged_what_its_worker_did_until_then(start_rig: StartRig) -> None:
    rig = await limited(start_rig, "--hang-after", "2", hourly_token_limit=10_000)
    async with rig.chatting(stream=True, max_tokens=5) as response:
        await response.content.readany()
    await until(lambda: settled(rig))
    assert used(rig) == 1 + 2


async def test_a_request_that_no_worker_took_costs_nothing(start_rig: StartRig) -> None:
    rig = await limited(start_rig, hourly_token_limit=10_000, hourly_request_limit=10)
    response, _ = await rig.chat("word " * 5_000, max_tokens=1)
    assert response.status == 400, "it is longer than the context"
    await until(lambda: settled(rig))
    assert (used(rig), used(rig, Unit.REQUESTS)) == (0, 0)


async def test_an_attempt_that_failed_is_charged_once_with_the_one_that_answered(start_rig: StartRig) -> None:
    rig = await start_rig(TINY)
    crashing = await rig.worker(TINY, "--crash-after", "0")
    rig.feed.limit(Tiny=limits(hourly_token_limit=10_000, hourly_request_limit=10))
    asking = asyncio.create_task(rig.chat())
    await crashing.process.wait()
    await rig.worker(TINY)
    response, _ = await asking
    assert response.status == 200
    assert (used(rig), used(rig, Unit.REQUESTS)) == (HELLO_TOKENS, 1)


async def test_while_sql_is_away_what_is_leased_is_spent_and_then_it_is_as_configured(start_rig: StartRig) -> None:
    rig = await limited(start_rig, hourly_token_limit=10_000)
    assert (await rig.chat(max_tokens=3))[0].status == 200
    rig.leases.away = True
    assert (await rig.chat(max_tokens=3))[0].status == 200
    response, body = await rig.chat(max_tokens=300)
    assert (response.status, error(body)) == (503, "quota_unavailable")
    assert response.headers["Retry-After"]
    rig.feed.limit(Tiny=limits(hourly_token_limit=10_000, on_database_loss=OnDatabaseLoss.OPEN))
    assert (await rig.chat(max_tokens=300))[0].status == 200
    rig.leases.away = False
    assert (await rig.chat(max_tokens=300))[0].status == 200
    assert used(rig) == 4 * HELLO_TOKENS


async def test_a_limit_that_is_changed_counts_what_was_used(start_rig: StartRig) -> None:
    rig = await limited(start_rig, hourly_request_limit=10)
    for _ in range(3):
        await rig.chat()
    rig.feed.limit(Tiny=limits(hourly_request_limit=3))
    assert (await rig.chat())[0].status == 429
    rig.feed.limit(Tiny=limits(hourly_request_limit=4))
    assert [(await rig.chat())[0].status for _ in range(2)] == [200, 429]


async def test_many_at_once_never_come_to_more_than_the_limit(start_rig: StartRig) -> None:
    rig = await limited(start_rig, hourly_token_limit=1_000)

    async def ask() -> int:
        try:
            response, _ = await rig.chat(max_tokens=3)
            return response.status
        except aiohttp.ClientError:
            return 0

    statuses = await asyncio.gather(*(ask() for _ in range(400)))
    assert used(rig) == statuses.count(200) * HELLO_TOKENS <= 1_000
    assert 429 in statuses


async def test_a_model_without_limits_asks_nobody(start_rig: StartRig) -> None:
    rig = await limited(start_rig)
    response, _ = await rig.chat()
    assert response.status == 200 and "x-ratelimit-limit-tokens" not in response.headers
    assert rig.leases.asked == 0


def test_the_accounts_of_a_model() -> None:
    quota = ModelQuota(hourly_token_limit=1, daily_request_limit=2, burst_token_limit=3)
    assert limits_of(model_pk=7, model="m", quota=quota).accounts == (
        Account(
            key="model:7/tokens/hour",
            unit=Unit.TOKENS,
            period=Period.HOUR,
            limit=1,
            name="hourly_token_limit",
            owner="The model 'm'",
        ),
        Account(
            key="model:7/requests/day",
            unit=Unit.REQUESTS,
            period=Period.DAY,
            limit=2,
            name="daily_request_limit",
            owner="The model 'm'",
        ),
    )
