"""The stub behaves as the engine does, except where it is told not to: tests of others stand on it."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from inference.protocol import (
    Accepted,
    Cancel,
    ChatMessage,
    Delta,
    Failed,
    Finished,
    FinishReason,
    FrameDecoder,
    Generate,
    Hello,
    WorkerLoad,
    WorkerToGateway,
    encode_frame,
)
from nopenai_site.environment import PROJECT_ROOT


class Stub:
    def __init__(self, path: Path, *arguments: str) -> None:
        command = (sys.executable, "-m", "tests.stub_worker", f"--socket={path}", "--model-id=M", "--version=1.0.0")
        self.socket = path
        self.process = subprocess.Popen(
            [*command, *arguments, "m.gguf"], cwd=PROJECT_ROOT, stdout=subprocess.PIPE, text=True
        )

    def stage(self) -> str:
        """The next line of its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ready(self) -> "Stub":
        while '"ready"' not in self.stage():
            assert self.process.poll() is None
        return self


class Client:
    """A blocking gateway."""

    def __init__(self, stub: Stub) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(20)
        self._socket.connect(str(stub.socket))
        self._decoder: FrameDecoder[WorkerToGateway] = FrameDecoder(WorkerToGateway)
        self.received: list[WorkerToGateway] = []

    def send(self, *messages: object) -> None:
        self._socket.sendall(encode_frame(messages))

    def until(self, wanted: Callable[[WorkerToGateway], bool]) -> list[WorkerToGateway]:
        """All messages up to the first that is wanted."""
        while True:
            for index, message in enumerate(self.received):
                if wanted(message):
                    taken, self.received = self.received[: index + 1], self.received[index + 1 :]
                    return taken
            data = self._socket.recv(65536)
            if not data:
                raise EOFError
            self.received += self._decoder.feed(data)

    def answer(self, request: Generate) -> list[WorkerToGateway]:
        self.send(request)
        messages = self.until(lambda message: isinstance(message, Finished | Failed))
        return [message for message in messages if not isinstance(message, Hello | WorkerLoad)]


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Callable[..., Stub]]:
    started: list[Stub] = []

    def start(*arguments: str) -> Stub:
        started.append(Stub(tmp_path / f"{len(started)}.sock", *arguments))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()


def ask(text: str = "one two", *, max_tokens: int | None = None, ignore_eos: bool = False) -> Generate:
    return Generate(id=1, request_id="r", text=text, max_tokens=max_tokens, ignore_eos=ignore_eos)


def test_it_introduces_itself_then_answers_with_exact_counts(stub: Callable[..., Stub]) -> None:
    client = Client(stub().ready())
    hello = client.until(lambda message: isinstance(message, WorkerLoad))
    assert isinstance(hello[0], Hello) and (hello[0].model, hello[0].version) == ("M", "1.0.0")
    assert client.answer(Generate(id=7, request_id="r", messages=(ChatMessage("user", "one two three"),))) == [
        Accepted(id=7, prompt_tokens=3),
        Delta(id=7, text="stub", tokens=1),
        Delta(id=7, text=" says", tokens=2),
        Delta(id=7, text=" hello", tokens=3),
        Finished(id=7, reason=FinishReason.STOP, prompt_tokens=3, completion_tokens=3),
    ]


@pytest.mark.parametrize(
    ("max_tokens", "ignore_eos", "completion_tokens", "reason"),
    [
        (2, False, 2, FinishReason.LENGTH),
        (3, False, 3, FinishReason.STOP),
        (100, False, 3, FinishReason.STOP),
        (100, True, 100, FinishReason.LENGTH),
        (0, False, 0, FinishReason.LENGTH),
    ],
)
def test_it_honours_max_tokens(
    stub: Callable[..., Stub], max_tokens: int, ignore_eos: bool, completion_tokens: int, reason: FinishReason
) -> None:
    finished = Client(stub().ready()).answer(ask(max_tokens=max_tokens, ignore_eos=ignore_eos))[-1]
    assert isinstance(finished, Finished)
    assert (finished.completion_tokens, finished.reason) == (completion_tokens, reason)


def test_it_refuses_what_does_not_fit(stub: Callable[..., Stub]) -> None:
    (failed,) = Client(stub("--context-tokens", "4").ready()).answer(ask(max_tokens=3))
    assert isinstance(failed, Failed) and (failed.status, failed.code) == (400, "context_length_exceeded")


def test_a_request_that_hangs_shows_as_load_and_can_be_cancelled(stub: Callable[..., Stub]) -> None:
    client = Client(stub().ready())
    client.send(ask("stub:hang-after-1"))
    client.until(lambda message: message == WorkerLoad(running=1, waiting=0))
    client.send(Cancel(1))
    finished = client.until(lambda message: isinstance(message, Finished))[-1]
    assert isinstance(finished, Finished)
    assert (finished.reason, finished.completion_tokens) == (FinishReason.CANCELLED, 1)
    client.until(lambda message: message == WorkerLoad(running=0, waiting=0))


def test_what_hangs_goes_on_when_its_gate_is_opened(stub: Callable[..., Stub], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    client = Client(stub("--hang-after", "0", "--hang-gate", str(gate)).ready())
    client.send(ask())
    client.until(lambda message: isinstance(message, Accepted))
    with gate.open("wb"):
        finished = client.until(lambda message: isinstance(message, Finished))[-1]
    assert isinstance(finished, Finished) and finished.completion_tokens == 3


def test_it_crashes_after_the_tokens_that_a_prompt_names(stub: Callable[..., Stub]) -> None:
    started = stub().ready()
    client = Client(started)
    client.send(ask("stub:crash-after-2"))
    client.until(lambda message: isinstance(message, Delta) and message.tokens == 2)
    with pytest.raises(EOFError):
        client.until(lambda _message: False)
    assert started.process.wait(20) == -9


def test_a_load_waits_for_its_gate(stub: Callable[..., Stub], tmp_path: Path) -> None:
    gate = tmp_path / "M.gate"
    os.mkfifo(gate)
    started = stub("--load-gate", str(tmp_path / "{model}.gate"))
    assert '"loading"' in started.stage()
    assert not started.socket.exists()
    with gate.open("wb"):
        started.ready()


def test_a_load_fails_with_the_reason_it_is_given_and_only_once_if_so_told(
    stub: Callable[..., Stub], tmp_path: Path
) -> None:
    arguments = ("--fail-load", "no such luck", "--first-only", str(tmp_path / "marker"))
    first = stub(*arguments)
    first.stage()
    assert "no such luck" in first.stage()
    assert first.process.wait(20) == 1
    stub(*arguments).ready()


def test_sigterm_ends_it_at_once_with_zero(stub: Callable[..., Stub]) -> None:
    started = stub().ready()
    started.process.terminate()
    assert started.process.wait(20) == 0
