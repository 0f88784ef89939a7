"""The official OpenAI client, unmodified, against the whole installation and a real model."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam

from tests.installation import Installation
from tests.waiting import wait_until

MODEL = "SmolLM2-135M-Instruct"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello!"}]


@pytest.fixture(scope="module")
def client(installation: Installation) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{installation.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert MODEL in [model.id for model in client.models.list()]
    model = client.models.retrieve(MODEL)
    assert (model.object, model.owned_by) == ("model", "nopenai")
    extra = model.model_extra or {}
    assert extra["architecture"] == "llama" and extra["parameter_count"] == "135M"
    assert extra["quantization"] == "Q4_1" and extra["context_length"] == 8192
    assert {"chat", "completion"} <= set(extra["capabilities"])
    assert extra["health_status"] == "healthy"


def test_an_unknown_model_is_not_found_and_the_nearest_is_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match=MODEL) as caught:
        client.chat.completions.create(model="SmolLM2-135M", messages=HELLO)
    assert caught.value.code == "model_not_found"


@pytest.mark.parametrize("model", ["auto", MODEL, f"{MODEL}@1.0.0"])
def test_a_chat_is_answered(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=HELLO, max_tokens=8)
    assert answer.object == "chat.completion" and answer.model == MODEL
    (choice,) = answer.choices
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert 0 < answer.usage.completion_tokens <= 8


def test_a_chat_streams_and_counts_as_the_whole_answer_does(client: openai.OpenAI) -> None:
    options = {"model": "auto", "messages": HELLO, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**options)  # type: ignore[call-overload]
    stream = client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})  # type: ignore[call-overload]
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_completion_is_answered_and_streams(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0)
    assert answer.object == "text_completion" and answer.choices[0].text.startswith(" Paris")
    stream = client.completions.create(
        model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in stream) == answer.choices[0].text


def test_a_completion_takes_tokens_and_echoes(client: openai.OpenAI) -> None:
    tokens = client.completions.create(model=MODEL, prompt=[504, 5345, 282], max_tokens=2)
    assert tokens.usage is not None and tokens.usage.prompt_tokens == 3
    echoed = client.completions.create(model=MODEL, prompt="Once upon a", max_tokens=2, echo=True)
    assert echoed.choices[0].text.startswith("Once upon a")


def test_stop_strings_and_seeds_do_what_they_say(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="One, two, three,", max_tokens=10, temperature=0)
    stop = whole.choices[0].text[4:7]
    cut = client.completions.create(model=MODEL, prompt="One, two, three,", max_tokens=10, temperature=0, stop=stop)
    assert cut.choices[0].text == whole.choices[0].text.split(stop)[0]
    assert cut.choices[0].finish_reason == "stop"
    drawn = [
        client.completions.create(model=MODEL, prompt="Today", max_tokens=8, seed=seed).choices[0].text
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


async def test_sixteen_at_once_from_the_async_client(installation: Installation) -> None:
    async with openai.AsyncOpenAI(base_url=f"{installation.url}/v1", api_key="none", timeout=120) as client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(
                    model="auto", messages=[{"role": "user", "content": f"Count to {n}"}], max_tokens=16
                )
                for n in range(16)
            )
        )
    assert all(answer.choices[0].message.content for answer in answers)
    assert len({answer.id for answer in answers}) == 16


async def test_a_client_that_leaves_stops_its_generation(installation: Installation) -> None:
    async with openai.AsyncOpenAI(base_url=f"{installation.url}/v1", api_key="none", timeout=60) as client:
        stream = await client.chat.completions.create(
            model="auto", messages=HELLO, max_tokens=4000, stream=True, extra_body={"ignore_eos": True}
        )
        await anext(aiter(stream))
        await stream.close()
        # Were it still running, sixteen lanes would let this one in anyway; its speed would tell, but the log is exact.
        answer = await client.chat.completions.create(model="auto", messages=HELLO, max_tokens=1)
        assert answer.usage is not None


def test_a_context_that_is_too_small_is_told_with_both_counts(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="8192") as caught:
        client.completions.create(model=MODEL, prompt="word " * 9000, max_tokens=1)
    assert caught.value.code == "context_length_exceeded" and caught.value.param == "prompt"


def test_unknown_fields_are_ignored_and_named(client: openai.OpenAI) -> None:
    answer = client.chat.completions.with_raw_response.create(
        model=MODEL, messages=HELLO, max_tokens=1, extra_body={"wibble": 1}, extra_headers={"X-Request-ID": "mine-1"}
    )
    assert answer.headers["x-nopenai-ignored"] == "wibble"
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.headers["x-nopenai-model"] == MODEL
    assert answer.headers["x-nopenai-strategy"] == "named"


def test_arabic_in_arabic_out_never_half_a_letter(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "مرحبا! كيف حالك؟ 👩‍👩‍👧"}], max_tokens=24, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    assert text and "\ufffd" not in text


BAD_REQUESTS: list[tuple[str, object, str | None]] = [
    ("no messages", {"model": "auto", "messages": []}, "messages"),
    ("no messages at all", {"model": "auto"}, "messages"),
    ("messages of another type", {"model": "auto", "messages": "hi"}, "messages"),
    ("unknown role", {"model": "auto", "messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role"),
    ("content of another type", {"model": "auto", "messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
    ("temperature too high", {"model": "auto", "messages": HELLO, "temperature": 99}, "temperature"),
    ("negative max_tokens", {"model": "auto", "messages": HELLO, "max_tokens": -1}, "max_tokens"),
    ("absurd max_tokens", {"model": "auto", "messages": HELLO, "max_tokens": 10**9}, "max_tokens"),
    ("top_p of zero", {"model": "auto", "messages": HELLO, "top_p": 0}, "top_p"),
    ("seed as text", {"model": "auto", "messages": HELLO, "seed": "x"}, "seed"),
    ("stop with an empty string", {"model": "auto", "messages": HELLO, "stop": [""]}, "stop"),
    ("a model that is a number", {"model": 5, "messages": HELLO}, "model"),
]


@pytest.mark.parametrize(("body", "param"), [case[1:] for case in BAD_REQUESTS], ids=[case[0] for case in BAD_REQUESTS])
def test_bad_requests_name_the_field_and_what_to_do(
    installation: Installation, body: object, param: str | None
) -> None:
    answer = httpx.post(f"{installation.url}/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] is not None and error["param"].startswith(str(param))
    assert len(error["message"]) > 10


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b"\xff\xfe", b'{"model": "auto", "messages": NaN}'])
def test_what_is_no_json_object_is_refused(installation: Installation, body: bytes) -> None:
    answer = httpx.post(f"{installation.url}/v1/chat/completions", content=body)
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


def test_a_body_of_ten_megabytes_is_too_large(installation: Installation) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "x" * 10_000_000}]}
    answer = httpx.post(f"{installation.url}/v1/chat/completions", json=body)
    assert answer.status_code == 413
    assert "MB" in answer.json()["error"]["message"] or "MiB" in answer.json()["error"]["message"]


def test_who_waits_for_a_cold_model_is_told_how_its_load_goes(
    installation: Installation, client: openai.OpenAI
) -> None:
    unloaded, _ = installation.post(f"/api/v1/models/{MODEL}/unload", {})
    assert unloaded == 202
    wait_until(lambda: _load(client)["state"] == "cold", timeout=30)
    request = {"model": MODEL, "messages": HELLO, "max_tokens": 4, "stream": True}
    told = {"X-Load-Progress": "true"}
    with httpx.stream(
        "POST", f"{installation.url}/v1/chat/completions", json=request, headers=told, timeout=60
    ) as response:
        lines = [line for line in response.iter_lines() if line]
    comments = [line for line in lines if line.startswith(": loading ")]
    stages = [comment.split()[3].removeprefix("stage=") for comment in comments]
    order = ["waiting_for_memory", "starting", "reading_weights", "warming_up"]
    assert stages and [order.index(stage) for stage in stages] == sorted(order.index(stage) for stage in stages)
    assert lines[-1] == "data: [DONE]"
    assert _load(client) | {"since": ""} == {
        "state": "ready", "stage": None, "progress": None, "position": None, "eta_seconds": None, "since": ""
    }  # fmt: skip
    stream = client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=4, stream=True, extra_headers=told)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def _load(client: openai.OpenAI) -> dict[str, Any]:
    load: dict[str, Any] = (client.models.retrieve(MODEL).model_extra or {})["load"]
    return load
