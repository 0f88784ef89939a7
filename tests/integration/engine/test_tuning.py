"""A real worker that measures while nobody asks for anything, and its parameters."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference.engine.llama import Model, silence_native_log
from inference.engine.sequences import Limits
from inference.engine.tuning import measure
from inference.protocol import EngineParameters, Generate, Sampling, Tuned
from tests import gguf_files
from tests.integration.engine.conftest import Client, Worker

Start = Callable[..., Worker]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    monkeypatch.setenv("GOMP_SPINCOUNT", "2000")  # as the supervisor does it
    workers: list[Worker] = []

    def start(model: Path | None = None, *options: str, **parameters: Any) -> Worker:
        model = model or gguf_files.write_model(tmp_path / "tiny.gguf")
        workers.append(Worker(model, f"--parameters={json.dumps(parameters)}", *options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Worker], Any]]:
    clients: list[Client] = []

    async def connect(worker: Worker) -> Client:
        clients.append(Client(*await asyncio.open_unix_connection(worker.socket)))
        return clients[-1]

    yield connect
    for client in clients:
        client.writer.close()


def request(id: int) -> Generate:
    return Generate(id=id, request_id=str(id), text="Hello", max_tokens=2, sampling=Sampling(temperature=0))


def until_tuned(worker: Worker) -> Tuned:
    assert worker.process.stdout is not None
    return next(
        msgspec.json.decode(line, type=Tuned) for line in worker.process.stdout if json.loads(line)["type"] == "tuned"
    )


def until_logged(worker: Worker, message: str) -> dict[str, Any]:
    assert worker.process.stderr is not None
    records = (json.loads(line) for line in worker.process.stderr if line.startswith("{"))
    return next(record for record in records if record["message"].startswith(message))


def anonymous_mb(worker: Worker) -> float:
    status = Path(f"/proc/{worker.process.pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024


def test_an_idle_worker_says_what_is_fastest_and_keeps_no_memory(start: Start, smollm2: Path) -> None:
    worker = start(smollm2, "--tune")
    assert worker.statuses()[-1]["stage"] == "ready"
    before = anonymous_mb(worker)
    tuned = until_tuned(worker)
    own, *others = tuned.measured
    assert own.parameters == EngineParameters(prefill_beside_decode=64)
    assert any(each.parameters.unified for each in others)
    assert all(0 < each.decode_seconds <= each.mixed_seconds for each in tuned.measured)
    cost = tuned.parameters.draft_cost
    assert cost is not None
    assert 0 < cost < 1, "a token beside another costs less than alone"
    assert anonymous_mb(worker) <= before + 8


async def test_whoever_asks_meanwhile_is_answered_at_once_and_it_is_measured_later(
    start: Start, smollm2: Path, connect: Callable[[Worker], Any]
) -> None:
    worker = start(smollm2, "--tune")
    assert worker.statuses()[-1]["stage"] == "ready"
    client = await connect(worker)
    await asyncio.to_thread(until_logged, worker, "Measuring")
    await client.generate(request(1))
    await asyncio.to_thread(until_logged, worker, "Measuring")  # again, so the first one was given up
    assert (await asyncio.to_thread(until_tuned, worker)).measured


def test_a_measurement_that_is_not_wanted_any_more_ends_amid_a_decode(smollm2: Path) -> None:
    complaints: list[str] = []
    silence_native_log(lambda level, text: complaints.append(text), verbose=False)
    model = Model([str(smollm2)], lambda _: None)
    asked = iter(range(2000))
    limits = Limits(lanes=16, lane_tokens=1024, long_slots=8, long_tokens=8192)
    assert measure(model, limits, 2, lambda: next(asked, None) is None) is None
    assert complaints == [], "that is no fault to tell of"


def test_what_an_operator_has_set_is_not_tried(start: Start) -> None:
    given = {"unified": True, "flash_attention": "on", "threads": 1, "prefill_beside_decode": 64, "draft_cost": 0.4}
    worker = start(None, "--tune", **given)
    worker.statuses()
    tuned = until_tuned(worker)
    (own,) = tuned.measured
    assert own.parameters == EngineParameters(prefill_beside_decode=64)
    assert tuned.parameters == EngineParameters()


def test_a_recurrent_model_is_measured_without_its_state(tmp_path: Path, start: Start) -> None:
    worker = start(gguf_files.write_recurrent(tmp_path / "recurrent.gguf"), "--tune")
    worker.statuses()
    assert until_tuned(worker).measured


async def test_a_worker_has_the_limits_it_was_given(start: Start, connect: Callable[[Worker], Any]) -> None:
    worker = start(None, lanes=3, lane_tokens=64, context_tokens=128, unified=True, batch_tokens=128, threads=1)
    assert worker.statuses()[-1]["stage"] == "ready"
    client = await connect(worker)
    await client.generate(request(1))
    assert client.hello is not None
    assert (client.hello.max_sequences, client.hello.context_tokens) == (3, 128)


async def test_a_context_is_stretched_beyond_what_it_was_trained_for_only_with_its_positions(
    start: Start, connect: Callable[[Worker], Any]
) -> None:
    tokens = []
    for parameters in ({}, {"rope_freq_scale": 0.5}):
        worker = start(None, context_tokens=1024, **parameters)
        worker.statuses()
        client = await connect(worker)
        await client.generate(request(1))
        tokens.append(client.hello.context_tokens)
    assert tokens == [512, 1024]


def test_parameters_that_llama_cpp_refuses_fail_the_load_with_its_reason(start: Start) -> None:
    # The tiny model's heads are 16 wide; q8_0 packs 32 numbers into a block.
    failed = start(None, kv_type="q8_0").statuses()[-1]
    assert failed["stage"] == "failed"
    assert "q8_0" in str(failed["reason"]) and "block size 32" in str(failed["reason"])


def test_more_threads_than_processors_are_not_taken(start: Start) -> None:
    worker = start(None, threads=512)
    assert worker.statuses()[-1]["stage"] == "ready"
    assert worker.process.stderr is not None
    lines = [json.loads(worker.process.stderr.readline()) for _ in range(2)]
    assert "fewer processors than threads" in lines[0]["message"]
    assert lines[0]["threads"] == 512
    assert lines[0]["used"] == lines[1]["threads"] == len(os.sched_getaffinity(0))
