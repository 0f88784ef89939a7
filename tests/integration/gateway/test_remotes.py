"""Models that a backend elsewhere answers, over real HTTP: one of our own gateways, and one that a test scripts."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_network
from typing import Any, TypeVar

import aiohttp
import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from inference.gateway.remotes.exchange import USUAL_ANSWER_TOKENS, Patience
from quotas.limits import ModelLimits, ModelQuota, limits_of
from quotas.usage.counts import UsageCounts
from registry.backends.addresses import Policy
from registry.backends.values import Backend
from routing.config import Routing, Strategy
from tests.catalogue import a_model, a_remote_model, a_version
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, events, text_of
from tests.integration.gateway.upstream import (
    HELLO,
    Answer,
    Upstream,
    chunk,
    hangs,
    hangs_up,
    refuses,
    says,
    streams,
    usage,
)
from tests.waiting import until

HERE = a_model("here", 1)
AWAY = a_remote_model("away", 2)
LOOPBACK = Policy([ip_network("127.0.0.0/8")])
SECRET = "sk-very-secret"

BOTH_WAYS = pytest.mark.parametrize("stream", [False, True])

T = TypeVar("T")
StartUpstream = Callable[..., Awaitable[Upstream]]


@pytest_asyncio.fixture
async def start_upstream() -> AsyncIterator[StartUpstream]:
    started: list[Upstream] = []

    async def start(*answers: Answer) -> Upstream:
        upstream = Upstream(*answers)
        started.append(upstream)
        await upstream.start()
        return upstream

    yield start
    for upstream in started:
        await upstream.stop()


def a_backend(url: str, **changes: Any) -> Backend:
    fields: dict[str, Any] = {"version_pk": 2, "url": url, "model": "theirs", "api_key": SECRET}
    return Backend(**(fields | changes))


async def a_front(start_rig: StartRig, upstream: Upstream, *models: Any, **config: Any) -> Rig:
    """A gateway whose model ``away`` is the upstream's."""
    rig = await start_rig(AWAY, *models, remote_policy=LOOPBACK, **config)
    rig.feed.connect(a_backend(upstream.url))
    return rig


def limits(**quota: Any) -> ModelLimits:
    return limits_of(model_pk=2, model="away", quota=ModelQuota(**quota))


def used(rig: Rig) -> UsageCounts:
    """What is written down of the model, which happens every second."""
    total = UsageCounts()
    for key, counts in rig.usage.counts.items():
        if key.model == "away":
            total.add(counts)
    return total


async def seconds(waited: Awaitable[T]) -> T:
    """Or it fails."""
    async with asyncio.timeout(10):
        return await waited


async def until_text(response: aiohttp.ClientResponse, text: bytes) -> bytes:
    """What has come of an answer once the text is there."""
    received = b""
    while text not in received:
        received += await seconds(response.content.readany())
    return received


class TestOneOfOurOwn:
    async def test_a_chat_streams_through_both(self, start_rig: StartRig) -> None:
        behind = await start_rig(HERE)
        await behind.worker(HERE)
        front = await start_rig(AWAY, remote_policy=LOOPBACK)
        front.feed.connect(a_backend(f"http://127.0.0.1:{behind.port}/v1", model="here"))
        async with front.chatting(model="away", stream=True, stream_options={"include_usage": True}) as response:
            assert response.status == 200, await response.text()
            assert response.headers["X-NOpenAI-Model"] == "away"
            assert response.headers["X-NOpenAI-Replica"] == "here/remote"
        chunks = await front.streamed(model="away", stream_options={"include_usage": True})
        assert text_of(chunks) == "stub says hello"
        assert {each["model"] for each in chunks[:-1]} == {"away"}
        assert chunks[-2]["usage"]["completion_tokens"] == 3
        assert chunks[-1] == "[DONE]"


class TestAStream:
    async def test_text_is_passed_on_before_the_answer_is_complete(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(chunk("first"), "wait", *HELLO))
        rig = await a_front(start_rig, upstream)
        async with rig.chatting(model="away", stream=True) as response:
            await until_text(response, b"first")
            upstream.go_on.set()
            assert b"[DONE]" in await response.read()

    async def test_a_whole_answer_is_asked_for_as_a_stream_with_its_usage(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await a_front(start_rig, upstream)
        response, body = await rig.chat("Hi", model="away", temperature=0.8, foo=1)
        assert response.status == 200
        assert body["choices"][0]["message"]["content"] == "Hello"
        assert body["choices"][0]["finish_reason"] == "stop"
        assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (7, 2)
        assert (body["model"], response.headers["X-NOpenAI-Version"]) == ("away", "1.0.0")
        assert upstream.paths == ["/v1/chat/completions"]
        assert upstream.headers[0]["Authorization"] == f"Bearer {SECRET}"
        assert upstream.requests[0] == {
            "model": "theirs",
            "stream": True,
            "stream_options": {"include_usage": True},
            "messages": [{"role": "user", "content": "Hi"}],
            "temperature": 0.8,
        }

    async def test_its_connection_is_used_again(self, start_rig: StartRig, start_upstream: StartUpstream) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await a_front(start_rig, upstream)
        while len(set(upstream.peers)) == len(upstream.peers) < 20:  # the last bytes may come after the next question
            await rig.chat(model="away")
        assert len(set(upstream.peers)) < len(upstream.peers)

    async def test_a_client_that_leaves_ends_the_backends_work(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(chunk("first"), "wait"))
        rig = await a_front(start_rig, upstream)
        async with rig.chatting(model="away", stream=True) as response:
            await response.content.readany()
        await seconds(upstream.left.wait())
        await until(lambda: used(rig).requests == 1)
        assert used(rig).completion_tokens == len("first")

    async def test_a_client_that_leaves_before_the_first_token_ends_it_too(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(hangs)
        rig = await a_front(start_rig, upstream)
        asking = asyncio.create_task(rig.chat(model="away"))
        await seconds(upstream.arrived.wait())
        asking.cancel()
        await seconds(upstream.left.wait())

    async def test_other_clients_of_the_backend_are_not_disturbed_by_one_that_leaves(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(chunk("first"), "wait", *HELLO))
        rig = await a_front(start_rig, upstream)
        staying = asyncio.create_task(rig.streamed(model="away"))
        async with rig.chatting(model="away", stream=True) as response:
            await response.content.readany()
        await seconds(upstream.left.wait())
        upstream.go_on.set()
        assert text_of(await staying) == "firstHello"


class TestOtherForms:
    async def test_choices_thoughts_and_tool_calls_come_as_they_are(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
        more = {"index": 0, "id": "call_1", "function": {"arguments": '{"at":1}'}}
        upstream = await start_upstream(
            streams(
                {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]},
                {"choices": [{"index": 0, "delta": {"reasoning_content": "Hm."}}]},
                {"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]},
                {"choices": [{"index": 0, "delta": {"tool_calls": [more]}}]},
                {"choices": [{"index": 1, "delta": {"content": "No."}, "finish_reason": "length"}]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]},
                usage(5, 9),
                "[DONE]",
            )
        )
        rig = await a_front(start_rig, upstream)
        tool = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
        _, body = await rig.chat(model="away", n=2, tools=[tool], tool_choice="required")
        first, second = body["choices"]
        assert first["message"]["reasoning_content"] == "Hm."
        assert first["message"]["tool_calls"] == [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"at":1}'}}
        ]
        assert (first["finish_reason"], second["finish_reason"]) == ("tool_calls", "length")
        assert upstream.requests[0]["tools"] == [tool]
        assert (upstream.requests[0]["n"], upstream.requests[0]["tool_choice"]) == (2, "required")

    async def test_several_prompts_of_a_completion_are_several_requests(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        said = [{"choices": [{"index": 0, "text": "ok", "finish_reason": "stop"}]}, usage(3, 1), "[DONE]"]
        upstream = await start_upstream(streams(*said))
        rig = await a_front(start_rig, upstream)
        body = {"model": "away", "prompt": ["a", [1, 2]], "max_tokens": 4}
        async with rig.client.post("/v1/completions", json=body) as response:
            answer = await response.json()
        assert [choice["text"] for choice in answer["choices"]] == ["ok", "ok"]
        assert answer["usage"]["total_tokens"] == 8
        assert upstream.paths == ["/v1/completions"] * 2
        assert sorted(str(each["prompt"]) for each in upstream.requests) == ["[1, 2]", "a"]
        assert {each["max_tokens"] for each in upstream.requests} == {4}

    async def test_embeddings_come_in_the_order_of_their_inputs(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        rows = [{"index": 1, "embedding": [0.5, 1.0]}, {"index": 0, "embedding": [1.5, 2.0]}]
        upstream = await start_upstream(says(json.dumps({"data": rows, "usage": {"prompt_tokens": 6}}).encode()))
        embedder = a_remote_model("away", 2, capabilities=frozenset({"embedding"}))
        rig = await start_rig(embedder, remote_policy=LOOPBACK)
        rig.feed.connect(a_backend(upstream.url))
        body = {"model": "away", "input": ["one", "two"], "dimensions": 2}
        async with rig.client.post("/v1/embeddings", json=body) as response:
            answer = await response.json()
        assert [row["embedding"] for row in answer["data"]] == [[1.5, 2.0], [0.5, 1.0]]
        assert answer["usage"]["prompt_tokens"] == 6
        assert upstream.paths == ["/v1/embeddings"]
        assert upstream.requests[0]["input"] == ["one", "two"]

    async def test_through_a_gateway_of_ours_embeddings_are_what_its_worker_made(self, start_rig: StartRig) -> None:
        here = a_model("here", a_version("here", 1, capabilities=frozenset({"embedding"})))
        behind = await start_rig(here)
        await behind.worker(here)
        front = await start_rig(
            a_remote_model("away", 2, capabilities=frozenset({"embedding"})), remote_policy=LOOPBACK
        )
        front.feed.connect(a_backend(f"http://127.0.0.1:{behind.port}/v1", model="here"))
        body = {"input": ["one two", [1, 2, 3]], "encoding_format": "base64"}
        async with (
            behind.client.post("/v1/embeddings", json={**body, "model": "here"}) as own,
            front.client.post("/v1/embeddings", json={**body, "model": "away"}) as passed,
        ):
            assert (await own.json())["data"] == (await passed.json())["data"]


class TestWhatFails:
    """Before the first token: what the client is told, and that no secret is in it."""

    @pytest.mark.parametrize(
        ("answer", "status", "code"),
        [
            (refuses(400, "bad field", param="tools"), 400, None),
            (refuses(400, "This model's maximum context length is 8 tokens"), 400, "context_length_exceeded"),
            (refuses(401, f"Incorrect API key {SECRET}"), 503, "backend_unauthorized"),
            (refuses(403), 503, "backend_unauthorized"),
            (refuses(404), 503, "backend_misconfigured"),
            (refuses(307, headers={"Location": "http://127.0.0.1:9/"}), 503, "backend_misconfigured"),
            (refuses(429, headers={"Retry-After": "17"}), 429, "rate_limited"),
            (refuses(500), 500, "backend_failed"),
            (refuses(503, headers={"Retry-After": "17"}), 503, "backend_unavailable"),
            (says(b"<html>"), 500, "backend_failed"),
            (streams("{}}"), 500, "backend_failed"),
            (streams({"error": {"message": f"out of luck {SECRET}"}}), 500, "backend_failed"),
            (streams(chunk(), "close"), 503, "worker_failed"),
            (hangs_up, 503, "worker_failed"),
        ],
    )
    @BOTH_WAYS
    async def test_a_refusal_is_told_in_openais_shape(
        self,
        start_rig: StartRig,
        start_upstream: StartUpstream,
        answer: Answer,
        status: int,
        code: str | None,
        stream: bool,
    ) -> None:
        upstream = await start_upstream(answer)
        rig = await a_front(start_rig, upstream)
        rig.feed.configure(Routing(retry_delay_ms=0))
        with capture_logs() as lines:
            response, body = await rig.chat(model="away", stream=stream)
        assert (response.status, body["error"]["code"]) == (status, code), body
        assert SECRET not in str(body) + str(lines)
        if status in (429, 503) and code in ("rate_limited", "backend_unavailable"):
            assert response.headers["Retry-After"] == "17"

    async def test_a_redirect_is_not_followed(self, start_rig: StartRig, start_upstream: StartUpstream) -> None:
        elsewhere = await start_upstream(streams(*HELLO))
        upstream = await start_upstream(refuses(307, headers={"Location": f"{elsewhere.url}/chat/completions"}))
        rig = await a_front(start_rig, upstream)
        assert (await rig.chat(model="away"))[0].status == 503
        assert elsewhere.requests == []

    async def test_a_backend_that_is_away_is_tried_again_and_told(self, start_rig: StartRig) -> None:
        rig = await start_rig(AWAY, remote_policy=LOOPBACK)
        rig.feed.connect(a_backend("http://127.0.0.1:9/v1"))
        rig.feed.configure(Routing(max_retries=2, retry_delay_ms=0))
        response, body = await rig.chat(model="away")
        assert (response.status, body["error"]["code"]) == (503, "worker_failed")
        assert "in 3 attempts" in body["error"]["message"]
        assert "127.0.0.1" not in body["error"]["message"]

    async def test_a_lost_connection_is_tried_again_unseen(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(hangs_up, streams(chunk(), "close"), streams(*HELLO))
        rig = await a_front(start_rig, upstream)
        rig.feed.configure(Routing(retry_delay_ms=0))
        assert text_of(await rig.streamed(model="away")) == "Hello"
        assert len(upstream.requests) == 3

    @pytest.mark.parametrize(
        "answer",
        [
            refuses(500),
            refuses(429),
            refuses(401),
            refuses(503),
            hangs_up,
            hangs,
            says(b"<html>"),
            streams(chunk(), "close"),
        ],
    )
    async def test_auto_goes_to_a_model_of_our_own(
        self, start_rig: StartRig, start_upstream: StartUpstream, answer: Answer
    ) -> None:
        upstream = await start_upstream(answer)
        rig = await a_front(start_rig, upstream, HERE, remote_patience=Patience(first_token=0.5))
        await rig.worker(HERE)
        rig.feed.configure(Routing(strategy=Strategy.ROUND_ROBIN, retry_delay_ms=0))
        answers = [await rig.chat(model="auto") for _ in range(2)]  # one of them is the backend's turn
        assert [response.headers.get("X-NOpenAI-Model") for response, _ in answers] == ["here", "here"]
        assert upstream.requests

    async def test_silence_before_the_head_ends(self, start_rig: StartRig, start_upstream: StartUpstream) -> None:
        upstream = await start_upstream(hangs)
        rig = await a_front(start_rig, upstream, remote_patience=Patience(first_token=0.2))
        response, body = await rig.chat(model="away")
        assert (response.status, body["error"]["code"]) == (503, "backend_unavailable")
        assert "0.2 s" in body["error"]["message"]
        assert len(upstream.requests) == 1

    async def test_silence_after_the_head_ends_likewise(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(chunk(), "wait"))
        rig = await a_front(start_rig, upstream, remote_patience=Patience(first_token=0.2))
        response, _ = await rig.chat(model="away", stream=True)
        assert response.status == 503


class TestInMidStream:
    @pytest.mark.parametrize(
        ("end", "code"),
        [
            (("close",), "worker_failed"),
            ((), "worker_failed"),
            (("[1, 2",), "backend_failed"),
            (({"choices": [{"index": 7, "delta": {"content": "x"}}]},), "backend_failed"),
            (({"error": {"message": "boom"}},), "backend_failed"),
        ],
    )
    async def test_the_stream_ends_with_an_error_and_no_done(
        self, start_rig: StartRig, start_upstream: StartUpstream, end: tuple[Any, ...], code: str
    ) -> None:
        upstream = await start_upstream(streams(chunk("first"), "wait", *end))
        rig = await a_front(start_rig, upstream)
        async with rig.chatting(model="away", stream=True) as response:
            begun = await until_text(response, b"first")
            upstream.go_on.set()
            told = list(events(begun + await response.read()))
        assert told[-1]["error"]["code"] == code
        assert len(upstream.requests) == 1
        await until(lambda: used(rig).errors == 1)

    async def test_a_silence_ends_it_likewise(self, start_rig: StartRig, start_upstream: StartUpstream) -> None:
        upstream = await start_upstream(streams(chunk("first"), "wait"))
        rig = await a_front(start_rig, upstream, remote_patience=Patience(silence=0.2))
        told = await rig.streamed(model="away")
        assert text_of(told) == "first"
        assert told[-1]["error"]["code"] == "backend_unavailable"
        await seconds(upstream.left.wait())

    async def test_an_answer_that_is_complete_needs_no_last_word(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(*HELLO[:3]))
        rig = await a_front(start_rig, upstream)
        told = await rig.streamed(model="away")
        assert (text_of(told), told[-1]) == ("Hello", "[DONE]")


class TestAddresses:
    async def test_a_private_address_is_refused_where_no_setting_allows_it(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await start_rig(AWAY)
        rig.feed.connect(a_backend(upstream.url))
        response, body = await rig.chat(model="away")
        assert (response.status, body["error"]["code"]) == (503, "backend_misconfigured")
        assert upstream.requests == []

    async def test_a_name_that_leads_to_one_is_refused_too(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await start_rig(AWAY)
        rig.feed.connect(a_backend(f"http://localhost:{upstream.port}/v1"))
        response, body = await rig.chat(model="away")
        assert (response.status, body["error"]["code"]) == (503, "backend_misconfigured")
        assert upstream.requests == []

    async def test_a_name_is_connected_to_where_it_is_allowed(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await start_rig(AWAY, remote_policy=Policy([ip_network("127.0.0.0/8"), ip_network("::1")]))
        rig.feed.connect(a_backend(f"http://localhost:{upstream.port}/v1"))
        assert (await rig.chat(model="away"))[0].status == 200


class TestLimits:
    async def test_what_the_backend_says_it_used_is_charged(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await a_front(start_rig, upstream)
        rig.feed.limit(away=limits(hourly_token_limit=100_000))
        assert (await rig.chat(model="away"))[0].status == 200
        await until(lambda: used(rig).requests == 1)
        assert (used(rig).prompt_tokens, used(rig).completion_tokens) == (7, 2)
        assert upstream.requests[0]["max_tokens"] == USUAL_ANSWER_TOKENS

    async def test_without_usage_all_that_was_promised_is_charged(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(*HELLO[:3], "[DONE]"))
        rig = await a_front(start_rig, upstream)
        rig.feed.limit(away=limits(hourly_token_limit=100_000))
        _, body = await rig.chat("Hi", model="away", max_tokens=50)
        await until(lambda: used(rig).requests == 1)
        assert used(rig).completion_tokens == 50 == body["usage"]["completion_tokens"]
        assert used(rig).prompt_tokens >= len("Hi")

    async def test_what_a_backend_hides_in_its_template_is_reckoned_with_from_then_on(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(chunk("x", finish="stop"), usage(900, 1), "[DONE]"))
        rig = await a_front(start_rig, upstream)
        rig.feed.limit(away=limits(hourly_token_limit=2000))
        for _ in range(2):
            await rig.chat(model="away", max_tokens=100)
        response, body = await rig.chat(model="away", max_tokens=100)
        assert (response.status, body["error"]["code"]) == (429, "quota_exceeded")
        assert len(upstream.requests) == 2

    async def test_an_answer_is_cut_to_what_is_left(self, start_rig: StartRig, start_upstream: StartUpstream) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await a_front(start_rig, upstream)
        rig.feed.limit(away=limits(hourly_token_limit=600))
        assert (await rig.chat(model="away"))[0].status == 200
        sent = upstream.requests[0]["max_tokens"]
        assert 0 < sent < 600

    async def test_nothing_is_sent_that_could_exceed_the_limit(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await a_front(start_rig, upstream)
        rig.feed.limit(away=limits(hourly_token_limit=60))
        response, body = await rig.chat(model="away", max_tokens=5)
        assert (response.status, body["error"]["code"]) == (429, "quota_exceeded")
        assert upstream.requests == []

    async def test_a_failed_request_costs_nothing(self, start_rig: StartRig, start_upstream: StartUpstream) -> None:
        upstream = await start_upstream(refuses(500))
        rig = await a_front(start_rig, upstream)
        await rig.chat(model="away")
        await until(lambda: used(rig).errors == 1)
        assert used(rig).prompt_tokens == 0


class TestBesideTheAnswer:
    async def test_a_remote_model_is_ready_and_asks_no_supervisor(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await a_front(start_rig, upstream)
        async with rig.client.get("/v1/models/away") as response:
            shown = await response.json()
        assert (shown["state"], shown["remote"], shown["path"]) == ("ready", True, None)
        await rig.chat(model="away")
        assert rig.supervisor.demanded.empty()
        assert rig.supervisor.in_use.empty()

    async def test_its_tokens_are_counted_for_metrics(self, start_rig: StartRig, start_upstream: StartUpstream) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await a_front(start_rig, upstream)
        await rig.chat(model="away")
        counted = await seconds(rig.supervisor.counted.get())
        while "away" not in counted.models:
            counted = await seconds(rig.supervisor.counted.get())
        elsewhere = counted.models["away"].elsewhere
        assert (elsewhere.prompt_tokens, elsewhere.completion_tokens) == (7, 2)

    async def test_a_new_key_is_used_from_then_on_and_the_old_one_ends_what_it_began(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(chunk("first"), "wait", *HELLO), streams(*HELLO))
        rig = await a_front(start_rig, upstream)
        begun = asyncio.create_task(rig.streamed(model="away"))
        await seconds(upstream.arrived.wait())
        rig.feed.connect(a_backend(upstream.url, api_key="sk-new"))
        assert (await rig.chat(model="away"))[0].status == 200
        assert [each["Authorization"] for each in upstream.headers] == [f"Bearer {SECRET}", "Bearer sk-new"]
        upstream.go_on.set()
        assert text_of(await begun) == "firstHello"

    async def test_a_key_that_can_not_be_opened_is_told_to_operators_only(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(streams(*HELLO))
        rig = await start_rig(AWAY, remote_policy=LOOPBACK)
        rig.feed.connect(a_backend(upstream.url, fault="its API key can't be opened"))
        with capture_logs() as lines:
            response, body = await rig.chat(model="away")
        assert "can't be opened" in str(lines)
        assert "can't be opened" not in str(body)
        assert (response.status, body["error"]["code"]) == (503, "backend_misconfigured")
        assert upstream.requests == []

    async def test_a_backend_that_fails_again_and_again_is_left_alone_by_auto(
        self, start_rig: StartRig, start_upstream: StartUpstream
    ) -> None:
        upstream = await start_upstream(refuses(500))
        rig = await a_front(start_rig, upstream, HERE)
        await rig.worker(HERE)
        rig.feed.configure(Routing(strategy=Strategy.ROUND_ROBIN, retry_delay_ms=0))
        for _ in range(20):
            assert (await rig.chat(model="auto"))[0].status == 200
        assert 0 < len(upstream.requests) < 10
