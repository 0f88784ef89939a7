"""The engine worker on a real model, through its protocol."""

import asyncio
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from inference.protocol import (
    PROTOCOL_VERSION,
    Accepted,
    Cancel,
    ChatMessage,
    Delta,
    Failed,
    Finished,
    FinishReason,
    Generate,
    Sampling,
)
from tests.integration.engine.conftest import ROOT, Client, Worker

GREEDY = Sampling(temperature=0.0)


def chat(id: int, text: str, **options: object) -> Generate:
    return Generate(id=id, request_id=f"r{id}", messages=(ChatMessage("user", text),), **options)  # type: ignore[arg-type]


async def test_hello_tells_what_the_worker_can_do(client: Client) -> None:
    await client.generate(chat(1, "Hi", max_tokens=1))
    assert client.hello is not None
    assert client.hello.protocol == PROTOCOL_VERSION
    assert client.hello.context_tokens == 8192
    assert client.hello.max_sequences >= 16


async def test_a_chat_is_answered_in_text_with_exact_counts(client: Client) -> None:
    client.send(chat(1, "What is the capital of France?", max_tokens=16, sampling=GREEDY))
    messages = await client.until(1, Finished)
    assert isinstance(messages[0], Accepted) and messages[0].prompt_tokens == 37
    assert "".join(message.text for message in messages if isinstance(message, Delta)).strip()
    finished = messages[-1]
    assert isinstance(finished, Finished)
    assert finished.prompt_tokens == 37 and 0 < finished.completion_tokens <= 16


async def test_the_model_knows_its_geography(client: Client) -> None:
    text, _ = await client.generate(
        Generate(id=1, request_id="r", text="The capital of France is", max_tokens=2, sampling=GREEDY)
    )
    assert text.startswith(" Paris")


async def test_sixteen_at_once_give_each_its_own_answer(client: Client) -> None:
    requests = [
        Generate(id=n, request_id=str(n), text=f"{n} + 1 =", max_tokens=8, sampling=GREEDY, ignore_eos=True)
        for n in range(16)
    ]
    client.send(*requests)
    for request in requests:
        messages = await client.until(request.id, Finished)
        assert isinstance(messages[-1], Finished) and messages[-1].completion_tokens == 8


async def test_more_requests_than_lanes_wait_and_are_all_answered(client: Client) -> None:
    requests = [chat(n, "Count.", max_tokens=2, ignore_eos=True, sampling=GREEDY) for n in range(40)]
    client.send(*requests)
    for request in requests:
        assert isinstance((await client.until(request.id, Finished))[-1], Finished)


async def test_the_same_seed_gives_the_same_text(client: Client) -> None:
    first, _ = await client.generate(chat(1, "Tell me a story", max_tokens=12, sampling=Sampling(seed=5)))
    again, _ = await client.generate(chat(2, "Tell me a story", max_tokens=12, sampling=Sampling(seed=5)))
    other, _ = await client.generate(chat(3, "Tell me a story", max_tokens=12, sampling=Sampling(seed=6)))
    assert first == again != other


async def test_a_stop_string_ends_the_answer_before_it(client: Client) -> None:
    whole, _ = await client.generate(
        Generate(id=1, request_id="r", text="One, two, three, four,", max_tokens=12, sampling=GREEDY)
    )
    stop = whole[5:9]
    text, finished = await client.generate(
        Generate(id=2, request_id="r", text="One, two, three, four,", max_tokens=12, sampling=GREEDY, stop=(stop,))
    )
    assert text == whole[: whole.find(stop)]
    assert finished.reason is FinishReason.STOP


async def test_echo_puts_the_prompt_first(client: Client) -> None:
    text, _ = await client.generate(Generate(id=1, request_id="r", text="Once upon", max_tokens=2, echo=True))
    assert text.startswith("Once upon")


async def test_no_completion_asked_for_is_none_given(client: Client) -> None:
    text, finished = await client.generate(Generate(id=1, request_id="r", text="Once upon", max_tokens=0, echo=True))
    assert text == "Once upon"
    assert (finished.reason, finished.prompt_tokens, finished.completion_tokens) == (FinishReason.LENGTH, 2, 0)


async def test_token_prompts_are_taken_as_they_are(client: Client) -> None:
    _, finished = await client.generate(Generate(id=1, request_id="r", tokens=(504, 5345, 282), max_tokens=1))
    assert finished.prompt_tokens == 3


async def test_a_conversation_may_grow_out_of_its_lane_into_the_long_context(client: Client) -> None:
    _, finished = await client.generate(
        Generate(id=1, request_id="r", text="word " * 1000, max_tokens=80, ignore_eos=True, sampling=GREEDY)
    )
    assert finished.completion_tokens == 80 and finished.reason is FinishReason.LENGTH
    assert finished.prompt_tokens + 80 > 1024


@pytest.mark.parametrize(
    ("request_", "code", "param"),
    [
        (Generate(id=1, request_id="r", text="word " * 9000), "context_length_exceeded", "prompt"),
        (Generate(id=1, request_id="r", text="hi", max_tokens=9000), "context_length_exceeded", "max_tokens"),
        (Generate(id=1, request_id="r", tokens=(1, 10**6)), "invalid_token", "prompt"),
        (Generate(id=1, request_id="r", tokens=()), "empty_prompt", "prompt"),
        (chat(1, "word " * 9000), "context_length_exceeded", "messages"),
    ],
)
async def test_a_request_that_can_not_be_served_is_refused_with_the_field_at_fault(
    client: Client, request_: Generate, code: str, param: str
) -> None:
    client.send(request_)
    failed = (await client.until(1, Failed))[-1]
    assert isinstance(failed, Failed)
    assert (failed.status, failed.code, failed.param) == (400, code, param)


async def test_context_errors_give_both_counts(client: Client) -> None:
    client.send(Generate(id=1, request_id="r", text="word " * 9000))
    failed = (await client.until(1, Failed))[-1]
    assert isinstance(failed, Failed) and "8192" in failed.message and "900" in failed.message


async def test_megabytes_of_one_word_are_refused_without_tokenizing_them(client: Client) -> None:
    client.send(Generate(id=1, request_id="r", text="a" * 8_000_000))
    failed = (await asyncio.wait_for(client.until(1, Failed), 10))[-1]
    assert isinstance(failed, Failed) and failed.code == "context_length_exceeded"
    assert "at least" in failed.message and "8192" in failed.message


async def test_a_cancelled_request_ends_at_once_and_says_so(client: Client) -> None:
    client.send(chat(1, "Write a very long essay", max_tokens=4000, ignore_eos=True))
    await client.until(1, Delta)
    client.send(Cancel(1))
    finished = (await client.until(1, Finished))[-1]
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.CANCELLED and finished.completion_tokens < 100
    await client.until_load(0)


async def test_a_gateway_that_vanishes_cancels_its_requests(worker: Worker, client: Client) -> None:
    reader, writer = await asyncio.open_unix_connection(worker.socket)
    other = Client(reader, writer)
    other.send(chat(1, "Write a very long essay", max_tokens=4000, ignore_eos=True))
    await other.until(1, Delta)
    await client.until_load(1)
    writer.transport.abort()
    await client.until_load(0)


async def test_a_peer_that_does_not_speak_the_protocol_is_dropped_alone(worker: Worker, client: Client) -> None:
    reader, writer = await asyncio.open_unix_connection(worker.socket)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    assert await asyncio.wait_for(reader.read(), 10) is not None
    text, _ = await client.generate(chat(1, "Hi", max_tokens=3))
    assert text
    writer.close()


async def test_arabic_and_emoji_arrive_whole(client: Client) -> None:
    client.send(
        Generate(
            id=1, request_id="r", text="مرحبا بالعالم 👩‍👩‍👧 مرحبا بالعالم 👩‍👩‍👧 مرحبا", max_tokens=40, sampling=GREEDY
        )
    )
    messages = await client.until(1, Finished)
    deltas = [message.text for message in messages if isinstance(message, Delta)]
    assert deltas and all("\ufffd" not in delta for delta in deltas)


def test_a_file_that_is_no_model_fails_with_a_reason(tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"not a model")
    worker = Worker(file)
    try:
        last = worker.statuses()[-1]
        assert last["stage"] == "failed" and "broken.gguf" in str(last["reason"])
        assert worker.process.wait(10) == 1
    finally:
        worker.close()


def test_the_terminal_sees_json_lines_only_and_nothing_of_llama_cpp(smollm2: Path) -> None:
    worker = Worker(smollm2)
    try:
        worker.statuses()
        worker.process.send_signal(signal.SIGTERM)
        _, errors = worker.process.communicate(timeout=20)
    finally:
        worker.close()
    assert [line.startswith('{"') for line in errors.splitlines()] == [True]
    assert "Model loaded" in errors
    assert worker.process.returncode == 0


def test_a_worker_dies_with_its_parent(smollm2: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "inference.engine", "--socket", str(tmp_path / "e.sock"), "--model-id", "m"]
    command += ["--version", "1.0.0", str(smollm2)]
    script = (
        "import subprocess, sys; p = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
        "while 'ready' not in p.stdout.readline(): pass\n"
        "print(p.pid, flush=True); input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script, *command], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pidfd = os.pidfd_open(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    # A pidfd becomes readable when its process ends.
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
