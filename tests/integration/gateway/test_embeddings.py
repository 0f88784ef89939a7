"""/v1/embeddings between a real client's socket and a worker's."""

import asyncio
import base64
import struct
from typing import Any

import aiohttp
import msgspec
import pytest

from inference.protocol import ReplicaState
from quotas.callers import Caller, Role, digest
from registry.catalogue import Model
from tests.catalogue import a_model
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, a_view
from tests.stub_worker.connection import vector_of


def an_embedder(name: str, pk: int) -> Model:
    model = a_model(name, pk)
    assert model.promoted is not None
    version = msgspec.structs.replace(model.promoted, capabilities=frozenset({"embedding"}))
    return msgspec.structs.replace(model, versions={version.version: version}, promoted=version)


E = an_embedder("e", 1)
CHAT = a_model("chat", 2)


async def embed(rig: Rig, input: Any = "one two", **fields: Any) -> tuple[aiohttp.ClientResponse, Any]:
    async with rig.client.post("/v1/embeddings", json={"input": input, "model": "auto", **fields}) as response:
        return response, await response.json()


def numbers(vector: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(vector) // 4}f", vector))


async def test_inputs_are_embedded_in_their_order_with_counts_and_headers(start_rig: StartRig) -> None:
    rig = await start_rig(CHAT, E)
    worker = await rig.worker(E)
    response, body = await embed(rig, ["one two", "three"], user="ada")
    assert response.status == 200, body
    assert [each["embedding"] for each in body["data"]] == [numbers(vector_of(text)) for text in ("one two", "three")]
    assert (body["object"], body["model"], body["usage"]) == ("list", "e", {"prompt_tokens": 3, "total_tokens": 3})
    headers = response.headers
    assert headers["X-NOpenAI-Model"] == "e" and headers["X-NOpenAI-Version"] == "1.0.0"
    assert headers["X-NOpenAI-Replica"] == f"here/{worker.process.pid}"
    assert headers["X-NOpenAI-Strategy"] == "cache_aware" and headers["X-NOpenAI-Ignored"] == "user"
    assert float(headers["X-NOpenAI-Queue-Ms"]) >= 0 and headers["X-Request-ID"].startswith("req_")


async def test_base64_carries_the_same_floats(start_rig: StartRig) -> None:
    rig = await start_rig(E)
    await rig.worker(E)
    _, body = await embed(rig, encoding_format="base64")
    assert base64.b64decode(body["data"][0]["embedding"]) == vector_of("one two")


async def test_dimensions_and_tokens_reach_the_worker(start_rig: StartRig) -> None:
    rig = await start_rig(E)
    await rig.worker(E)
    _, body = await embed(rig, [1, 2, 3], dimensions=2)
    assert body["data"][0]["embedding"] == numbers(vector_of("token token token "))[:2]
    assert body["usage"]["prompt_tokens"] == 3


async def test_thousands_of_numbers_do_not_hold_up_another_answer(start_rig: StartRig) -> None:
    """Both are answered; the large one lets go of the event loop on its way."""
    rig = await start_rig(E, CHAT)
    await rig.worker(E)
    await rig.worker(CHAT)
    (_, large), (_, chat) = await asyncio.gather(embed(rig, ["word " * 100] * 2048), rig.chat(model="chat"))
    assert [each["index"] for each in large["data"]] == list(range(2048))
    assert chat["choices"][0]["message"]["content"] == "stub says hello"


async def test_the_first_request_loads_the_model(start_rig: StartRig) -> None:
    rig = await start_rig(E)
    asking = asyncio.create_task(embed(rig))
    async with asyncio.timeout(10):
        assert (await rig.supervisor.demanded.get()).model == "e"
    await rig.announce(a_view(E, ReplicaState.LOADING, progress=0.5))
    await rig.worker(E)
    response, _ = await asking
    assert response.status == 200


async def test_a_worker_that_dies_is_replaced_unseen(start_rig: StartRig) -> None:
    rig = await start_rig(E)
    await rig.worker(E, "--crash-after", "0")
    asking = asyncio.create_task(embed(rig))
    await rig.workers[0].process.wait()
    await rig.announce(a_view(E, ReplicaState.LOADING))
    await rig.worker(E)
    response, body = await asking
    assert response.status == 200, body


async def test_a_worker_that_fails_is_told_as_it_is(start_rig: StartRig) -> None:
    rig = await start_rig(E)
    await rig.worker(E)
    response, body = await embed(rig, "stub:fail-after-0")
    assert (response.status, body["error"]["code"]) == (500, "stub_failed")


async def test_a_client_that_leaves_stops_its_embedding(start_rig: StartRig) -> None:
    rig = await start_rig(E)
    worker = await rig.worker(E)
    async with worker.watched() as load:
        asking = asyncio.create_task(embed(rig, "stub:hang-after-0"))
        await load.until(running=1)
        asking.cancel()
        await load.until(running=0)


async def test_a_chat_model_embeds_when_it_is_named_and_an_embedder_never_chats(start_rig: StartRig) -> None:
    rig = await start_rig(CHAT, E)
    await rig.worker(CHAT)
    response, _ = await embed(rig, model="chat")
    assert response.status == 200
    response, body = await rig.chat(model="e")
    assert (response.status, body["error"]["code"]) == (400, "capability_unavailable")
    assert body["error"]["param"] == "model"


async def test_where_no_model_embeds_auto_says_so(start_rig: StartRig) -> None:
    rig = await start_rig(CHAT)
    response, body = await embed(rig)
    assert (response.status, body["error"]["code"]) == (503, "capability_unavailable")
    assert "embedding" in body["error"]["message"] and "Retry-After" in response.headers


KEY = "nok_" + "k" * 32


@pytest.mark.parametrize(("headers", "status"), [({}, 401), ({"Authorization": f"Bearer {KEY}"}, 200)])
async def test_where_keys_are_required_embeddings_need_one(
    start_rig: StartRig, headers: dict[str, str], status: int
) -> None:
    caller = Caller(key_pk=1, tenant="t", role=Role.INFERENCE, prefix="nok_kkkkkkkk", expires_at=None)
    rig = await start_rig(E, callers={digest(KEY): caller}, require_api_key=True)
    await rig.worker(E)
    async with rig.client.post("/v1/embeddings", json={"input": "x", "model": "e"}, headers=headers) as response:
        assert response.status == status


async def test_a_wrong_method_is_told_which_is_right(start_rig: StartRig) -> None:
    rig = await start_rig(E)
    async with rig.client.get("/v1/embeddings") as response:
        assert (response.status, response.headers["Allow"]) == (405, "POST")
