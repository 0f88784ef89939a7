"""Requests that go well, and those that are wrong."""

import asyncio
import json
from typing import Any

import pytest

from inference.gateway.asgi import MAX_BODY_BYTES
from quotas.callers import Caller, Role, digest
from tests.catalogue import a_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import events, text_of

M = a_model("org/m:Q4", 1)


async def test_a_chat_is_answered_whole_with_its_counts_and_headers(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    worker = await rig.worker(M)
    response, body = await rig.chat("one two three", model="auto", user="ada")
    assert response.status == 200
    assert body["choices"][0]["message"] == {"role": "assistant", "content": "stub says hello", "refusal": None}
    assert (body["model"], body["choices"][0]["finish_reason"]) == ("org/m:Q4", "stop")
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (3, 3)
    headers = response.headers
    assert headers["X-NOpenAI-Model"] == "org/m:Q4"
    assert headers["X-NOpenAI-Version"] == "1.0.0"
    assert headers["X-NOpenAI-Strategy"] == "cache_aware"
    assert headers["X-NOpenAI-Replica"] == f"here/{worker.process.pid}"
    assert headers["X-NOpenAI-Cached-Tokens"] == "0"
    assert headers["X-NOpenAI-Ignored"] == "user"
    assert float(headers["X-NOpenAI-Routing-Us"]) > 0
    assert float(headers["X-NOpenAI-Queue-Ms"]) >= 0
    assert body["id"].removeprefix("chatcmpl-") == headers["X-Request-ID"].removeprefix("req_")


async def test_a_chat_streams_from_the_role_to_done(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    chunks = await rig.streamed("one two", stream_options={"include_usage": True})
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert text_of(chunks) == "stub says hello"
    assert chunks[-3]["choices"][0]["finish_reason"] == "stop"
    assert (chunks[-2]["usage"]["total_tokens"], chunks[-1]) == (5, "[DONE]")


async def test_a_stream_is_an_event_stream_that_nobody_gathers(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    async with rig.chatting(stream=True) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert (response.headers["Cache-Control"], response.headers["X-Accel-Buffering"]) == ("no-cache", "no")
        await response.read()


async def test_each_text_leaves_when_it_comes(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    async with rig.chatting("stub:hang-after-1", stream=True) as response:
        seen = b""
        while b"stub" not in seen:
            seen += await response.content.readany()
        assert b"says" not in seen


async def test_text_completions_of_text_and_of_token_ids(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    for prompt, tokens in (("one two", 2), ([5, 6, 7], 3)):
        async with rig.client.post("/v1/completions", json={"prompt": prompt, "max_tokens": 2}) as response:
            body = await response.json()
        assert (body["object"], body["choices"][0]["text"]) == ("text_completion", "stub says")
        assert (body["choices"][0]["finish_reason"], body["usage"]["prompt_tokens"]) == ("length", tokens)
    echo = {"prompt": "one two", "echo": True, "stream": True}
    async with rig.client.post("/v1/completions", json=echo) as response:
        chunks = list(events(await response.read()))
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == "one twostub says hello"


async def test_several_prompts_have_a_choice_each_and_one_usage(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    body = {"prompt": ["one", "one two", "one two three"], "max_tokens": 2, "stream_options": {"include_usage": True}}
    async with rig.client.post("/v1/completions", json=body | {"stream": True}) as response:
        *chunks, usage, done = events(await response.read())
    async with rig.client.post("/v1/completions", json=body | {"stream_options": None}) as response:
        whole = await response.json()
    assert [(choice["index"], choice["text"]) for choice in whole["choices"]] == [(i, "stub says") for i in range(3)]
    assert whole["usage"]["prompt_tokens"] == 6 and whole["usage"]["completion_tokens"] == 6
    assert (usage["usage"], done) == (whole["usage"], "[DONE]")
    ends = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["finish_reason"]]
    assert sorted((end["index"], end["finish_reason"]) for end in ends) == [(i, "length") for i in range(3)]


async def test_one_prompt_of_several_that_is_too_long_refuses_all(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    for stream in (False, True):
        body = {"prompt": ["one", "word " * 5000], "stream": stream}
        async with rig.client.post("/v1/completions", json=body) as response:
            assert response.status == 400
            assert (await response.json())["error"]["code"] == "context_length_exceeded"


async def test_auto_turns_between_models_and_each_use_is_counted(start_rig: StartRig) -> None:
    one, two = a_model("one", 1), a_model("two", 2)
    rig = await start_rig(one, two)
    await rig.worker(one)
    await rig.worker(two)
    answered = [(await rig.chat(model="auto"))[1]["model"] for _ in range(6)]
    assert answered in (["one", "two"] * 3, ["two", "one"] * 3)
    await rig.shut_down()
    assert rig.feed.usage == {"one": 3, "two": 3}


async def test_many_requests_at_once_each_get_their_own_answer(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    answers = await asyncio.gather(*(rig.chat("word " * n, max_tokens=n % 3 + 1) for n in range(1, 60)))
    assert [body["usage"]["prompt_tokens"] for _, body in answers] == list(range(1, 60))


@pytest.mark.parametrize("request_id", ["mine-42", "caf\u00e9"])
async def test_the_request_id_is_echoed_or_made_on_every_answer(start_rig: StartRig, request_id: str) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    headers = {"X-Request-ID": request_id}
    good = {"messages": [{"role": "user", "content": "x"}]}
    for body, status in ((good, 200), (good | {"stream": True}, 200), ({}, 400), (good | {"model": "other"}, 404)):
        async with rig.client.post("/v1/chat/completions", json=body, headers=headers) as response:
            assert response.status == status
            got = response.headers["X-Request-ID"]
        assert got == request_id if request_id.isascii() else got.startswith("req_")


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"messages": []}, 400, None, "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, None, "messages[0].role"),
        ({"temperature": 9}, 400, None, "temperature"),
        ({"n": 17}, 400, None, "n"),
        ({"model": "org/n:Q4"}, 404, "model_not_found", "model"),
        ({"model": "org/m:Q4@7.0.0"}, 404, "model_not_found", "model"),
        ({"capabilities": ["arabic_nlp"]}, 503, "capability_unavailable", "capabilities"),
        ({"max_tokens": 100_000}, 400, "context_length_exceeded", "messages"),
    ],
)
async def test_a_wrong_request_is_told_what_is_wrong(
    start_rig: StartRig, fields: dict[str, Any], status: int, code: str | None, param: str
) -> None:
    rig = await start_rig(M)
    await rig.worker(M)
    for stream in (False, True):
        response, body = await rig.chat(**fields, stream=stream)
        assert response.status == status
        assert (body["error"]["code"], body["error"]["param"]) == (code, param)
        assert ("Retry-After" in response.headers) == (status == 503)


async def test_what_the_worker_fails_at_is_a_fault_of_the_server(start_rig: StartRig) -> None:
    rig = await start_rig(M)
    await rig.worker(M, "--token-seconds", "0.01")
    response, body = await rig.chat("stub:fail-after-0", stream=True)
    assert (response.status, body["error"]["code"]) == (500, "stub_failed")
    chunks = await rig.streamed("stub:fail-after-2")
    assert text_of(chunks) == "stub says"
    assert chunks[-1]["error"]["code"] == "stub_failed"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/completions", "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("POST", "/health", "GET, HEAD"),
        ("PUT", "/health/ready", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(start_rig: StartRig, method: str, path: str, allowed: str) -> None:
    rig = await start_rig(M)
    async with rig.client.request(method, path) as response:
        body = await response.json()
    assert (response.status, response.headers["Allow"]) == (405, allowed)
    assert body["error"]["code"] == "method_not_allowed"


class TestLargeBodies:
    async def test_ten_megabytes_are_refused_and_the_sender_reads_why(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        async with rig.client.post("/v1/chat/completions", data=b"x" * 10 * 1024 * 1024) as response:
            body = await response.json()
        assert (response.status, response.headers["Connection"]) == (413, "close")
        assert body["error"]["code"] == "body_too_large"

    async def test_a_body_of_unknown_length_is_refused_when_it_grows_too_large(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)

        async def endless() -> Any:
            for _ in range(12):
                yield b"x" * 1024 * 1024

        async with rig.client.post("/v1/chat/completions", data=endless()) as response:
            assert response.status == 413

    async def test_who_asks_first_whether_to_send_is_told_not_to(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BODY_BYTES + 1}\r\n"
        writer.write(f"{head}Expect: 100-continue\r\n\r\n".encode())
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 413 ")
        writer.close()

    async def test_a_body_of_eight_megabytes_is_read(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        await rig.worker(M)
        body = json.dumps({"prompt": "x" * (MAX_BODY_BYTES - 100)}).encode()
        async with rig.client.post("/v1/completions", data=body) as response:
            assert (await response.json())["usage"]["prompt_tokens"] == 1


class TestKeys:
    KEY = "nok_" + "k" * 43
    CALLERS = {digest(KEY): Caller(key_pk=1, tenant="t", role=Role.INFERENCE, prefix="nok_kkkkkkkk", expires_at=None)}

    async def test_where_keys_are_required_only_probes_are_open(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, callers=self.CALLERS, require_api_key=True)
        await rig.worker(M)
        for path in ("/v1/models", "/v1/models/org/m:Q4"):
            async with rig.client.get(path) as response:
                assert (response.status, response.headers["WWW-Authenticate"]) == (401, "Bearer")
            async with rig.client.get(path, headers={"Authorization": f"Bearer {self.KEY}"}) as response:
                assert response.status == 200
        for path in ("/health", "/health/live", "/health/ready", "/health/model/org/m:Q4"):
            async with rig.client.get(path) as response:
                assert response.status == 200

    async def test_a_chat_needs_a_valid_key(self, start_rig: StartRig) -> None:
        rig = await start_rig(M, callers=self.CALLERS, require_api_key=True)
        await rig.worker(M)
        response, body = await rig.chat()
        assert (response.status, body["error"]["code"]) == (401, "invalid_api_key")
        rig.client.headers["Authorization"] = "Bearer nok_wrong"
        response, body = await rig.chat()
        assert response.status == 401
        assert "nok_wrong" not in json.dumps(body)
        rig.client.headers["Authorization"] = f"Bearer {self.KEY}"
        assert (await rig.chat())[0].status == 200

    async def test_where_none_is_required_any_key_passes(self, start_rig: StartRig) -> None:
        rig = await start_rig(M)
        await rig.worker(M)
        rig.client.headers["Authorization"] = "Bearer sk-anything"
        assert (await rig.chat())[0].status == 200
