"""The official OpenAI client embeds: with encoders, and with the chat model beside its chats."""

import asyncio
import json
import math
from collections.abc import Iterator

import openai
import pytest

from tests import gguf_files
from tests.installation import Installation, running_installation
from tests.waiting import wait_until

CHAT = "SmolLM2-135M-Instruct"
CONTEXT = 128


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One of this file's own, with encoders of two kinds beside the starter model."""
    with running_installation(tmp_path_factory.mktemp("embeddings")) as started:
        for name, architecture in (("Tiny-BERT", "bert"), ("Tiny-Nomic", "nomic-bert")):
            path = started.models_dir / name / "model.gguf"
            gguf_files.write_encoder(path, architecture=architecture, context_length=CONTEXT)
        wait_until(lambda: all(embeds(started, name) for name in ("Tiny-BERT", "Tiny-Nomic")), 10)
        yield started


def embeds(installation: Installation, name: str) -> bool:
    """The scan has seen its whole file; of one that is still written it sees less."""
    status, body = installation.get(f"/v1/models/{name}")
    return status == 200 and json.loads(body)["capabilities"] == ["embedding"]


@pytest.fixture(scope="module")
def client(installation: Installation) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{installation.url}/v1", api_key="none", max_retries=0, timeout=60) as made:
        yield made


def cosine(one: list[float], other: list[float]) -> float:
    return math.fsum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))


def test_what_a_model_can_do_is_read_from_its_gguf(client: openai.OpenAI) -> None:
    extra = client.models.retrieve("Tiny-BERT").model_extra or {}
    assert extra["capabilities"] == ["embedding"] and extra["architecture"] == "bert"
    assert extra["context_length"] == CONTEXT


@pytest.mark.parametrize("model", ["auto", "Tiny-BERT", "Tiny-Nomic@1.0.0", CHAT])
def test_texts_are_embedded_at_length_one(client: openai.OpenAI, model: str) -> None:
    answer = client.embeddings.create(model=model, input=["the king ran", "the cat sat on the mat"])
    assert answer.object == "list" and [each.index for each in answer.data] == [0, 1]
    assert all(abs(math.hypot(*each.embedding) - 1) < 1e-5 for each in answer.data)
    assert 8 <= answer.usage.prompt_tokens == answer.usage.total_tokens
    if model == "auto":
        assert answer.model != CHAT


def test_base64_which_the_client_asks_for_and_numbers_are_the_same(client: openai.OpenAI) -> None:
    encoded = client.embeddings.create(model="Tiny-BERT", input="the king")
    plain = client.embeddings.create(model="Tiny-BERT", input="the king", encoding_format="float")
    assert len(plain.data[0].embedding) == 32
    assert cosine(encoded.data[0].embedding, plain.data[0].embedding) > 0.99999


def test_fewer_dimensions_are_normalised_again(client: openai.OpenAI) -> None:
    whole = client.embeddings.create(model="Tiny-BERT", input="the king").data[0].embedding
    short = client.embeddings.create(model="Tiny-BERT", input="the king", dimensions=8).data[0].embedding
    assert len(short) == 8 and abs(math.hypot(*short) - 1) < 1e-5 and cosine(short, whole[:8]) > 0.99999


def test_what_can_not_be_embedded_is_refused_with_the_reason(client: openai.OpenAI) -> None:
    cases: list[tuple[dict[str, object], str | None, str, str]] = [
        ({"input": "king " * 200}, "context_length_exceeded", "input", "202 tokens"),
        ({"input": ["king", "king " * 200]}, "context_length_exceeded", "input[1]", str(CONTEXT)),
        ({"input": "king", "dimensions": 33}, "invalid_dimensions", "dimensions", "32"),
        ({"input": [10**6]}, "invalid_token", "input", "vocabulary"),
        ({"input": ""}, None, "input", "empty"),
        ({"input": []}, None, "input", "empty"),
    ]
    for fields, code, param, words in cases:
        with pytest.raises(openai.BadRequestError, match=words) as refused:
            client.embeddings.create(model="Tiny-BERT", **fields)  # type: ignore[arg-type]
        assert (refused.value.code, refused.value.param) == (code, param)


def test_an_encoder_does_not_chat(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="Tiny-BERT", messages=[{"role": "user", "content": "Hello!"}])
    assert refused.value.code == "capability_unavailable"


def test_headers_are_those_of_a_chat(client: openai.OpenAI) -> None:
    raw = client.embeddings.with_raw_response.create(model="Tiny-BERT", input="king", user="ada")
    assert raw.headers["x-nopenai-model"] == "Tiny-BERT" and raw.headers["x-nopenai-ignored"] == "user"


async def test_a_chat_model_embeds_while_it_streams_chats(installation: Installation) -> None:
    async with openai.AsyncOpenAI(base_url=f"{installation.url}/v1", api_key="none", timeout=120) as client:

        async def chat(number: int) -> str:
            stream = await client.chat.completions.create(
                model=CHAT, messages=[{"role": "user", "content": f"Count to {number}"}], max_tokens=24, stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

        async def embed(number: int) -> list[float]:
            answer = await client.embeddings.create(model=CHAT, input=f"A text about the number {number}. " * 10)
            return answer.data[0].embedding

        chats = asyncio.gather(*[chat(number) for number in range(8)])
        vectors = await asyncio.gather(*[embed(number) for number in range(8)])
        assert all(await chats)
        assert len({tuple(vector) for vector in vectors}) == 8 and all(len(vector) == 576 for vector in vectors)
