"""The engine's thread when it fails, on a model that is none."""

import threading
from typing import Any, cast

import pytest

from inference.engine.engine import Engine
from inference.engine.jobs import Job
from inference.engine.llama import Model
from inference.engine.sequences import Limits
from inference.protocol import EngineParameters, Generate, WorkerLoad

LIMITS = Limits(lanes=1, lane_tokens=8, long_slots=1, long_tokens=0)


class BrokenModel:
    """Its contexts compute ``good_decodes`` times; then it fails in a way that the engine does not expect."""

    parameters = EngineParameters()
    recurrent = hybrid = False

    def __init__(self, good_decodes: int) -> None:
        self._left = good_decodes

    def create_context(self, **_: Any) -> "BrokenModel":
        return self

    def decode(self, *_: object) -> None:
        if self._left == 0:
            raise RuntimeError("nobody thought of this")
        self._left -= 1

    def forget_all(self) -> None:
        pass


def engine(model: BrokenModel, on_death: Any, emit: Any = lambda _: None) -> Engine:
    return Engine(cast(Model, model), LIMITS, 1, emit, on_death=on_death)


def test_an_engine_that_fails_takes_its_process_along_rather_than_leave_jobs_unanswered() -> None:
    died = threading.Event()
    running = engine(BrokenModel(good_decodes=1), died.set)
    running.start()
    running.submit(Job(peer=0, request=Generate(id=1, request_id="r"), tokens=[1], limit=2))
    assert died.wait(10)


def test_a_request_to_an_idle_engine_waits_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.engine.engine._HELD_SECONDS", 3600.0)
    died = threading.Event()
    running = engine(BrokenModel(good_decodes=1), died.set)
    running.start()
    running.submit(Job(peer=0, request=Generate(id=1, request_id="r"), tokens=[1], limit=2))
    assert died.wait(10)


def test_that_something_runs_is_told_before_it_is_computed() -> None:
    """A step may take seconds, and a worker that seems idle is stopped where it is not wanted any more."""
    died = threading.Event()
    said: list[Any] = []
    running = engine(BrokenModel(good_decodes=1), died.set, said.extend)
    running.start()
    running.submit(Job(peer=0, request=Generate(id=1, request_id="r"), tokens=[1], limit=2))
    assert died.wait(10)
    assert (None, WorkerLoad(running=1, waiting=0)) in said


def test_whatever_fails_at_the_start_is_told_to_who_started_it() -> None:
    with pytest.raises(RuntimeError, match="nobody thought"):
        engine(BrokenModel(good_decodes=0), lambda: None).start()
