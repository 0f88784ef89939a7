"""The thread of an embedding model when it fails, on a model that is none."""

import threading
from typing import Any, cast

import numpy as np
import pytest

from inference.engine.embedding_engine import EmbeddingEngine
from inference.engine.embeddings import EmbeddingJob, embeds_only
from inference.engine.llama import FloatArray, LlamaError, Model, Pooling
from inference.protocol import Embed, Embedded, Failed, WorkerLoad


class FakeModel:
    """Embeds everything as (3, 4); what goes wrong is raised by the ``fails_at``-th call."""

    vocabulary_size = 100
    embedding_width = 2
    attends_both_ways = True
    pooling: Pooling | None = Pooling.MEAN

    def __init__(self, fault: Exception | None = None, fails_at: int = 0) -> None:
        self._fault = fault
        self._left = fails_at

    def create_embedding_context(self, **_: Any) -> "FakeModel":
        return self

    def embed(self, tokens: list[int], positions: list[int], slots: list[int]) -> dict[int, FloatArray]:
        self._left -= 1
        if self._fault is not None and self._left == 0:
            raise self._fault
        return {slot: np.array([3, 4], np.float32) for slot in slots}

    def forget(self, slot: int) -> None:
        pass

    def close(self) -> None:
        pass


class Ear:
    """Hears what an engine says."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self._ended = threading.Event()

    def __call__(self, messages: list[Any]) -> None:
        self.said += [message for _, message in messages]
        if any(isinstance(message, Embedded | Failed) for message in self.said):
            self._ended.set()

    def answer(self) -> Embedded | Failed:
        assert self._ended.wait(10)
        return next(message for message in self.said if isinstance(message, Embedded | Failed))


def engine(model: FakeModel, ear: Any = lambda _: None, on_death: Any = lambda: None) -> EmbeddingEngine:
    return EmbeddingEngine(cast(Model, model), 64, 1, ear, on_death=on_death)


def job() -> EmbeddingJob:
    return EmbeddingJob(peer=0, request=Embed(id=1, request_id="r", inputs=("x",)), inputs=[[1, 2]])


def test_a_job_is_answered_and_the_thread_ends_when_it_is_told() -> None:
    ear = Ear()
    running = engine(FakeModel(), ear)
    running.start()
    running.submit(job())
    answer = ear.answer()
    assert isinstance(answer, Embedded) and np.allclose(np.frombuffer(answer.vectors[0], "<f4"), [0.6, 0.8])
    running.stop()
    loads = [load for load in ear.said if isinstance(load, WorkerLoad)]
    assert loads == [WorkerLoad(running=0, waiting=1), WorkerLoad(running=0, waiting=0)], "before and after the turn"


def test_what_llama_cpp_refuses_fails_the_job_alone() -> None:
    ear = Ear()
    running = engine(FakeModel(LlamaError("status 1"), fails_at=2), ear)
    running.start()
    running.submit(job())
    answer = ear.answer()
    assert isinstance(answer, Failed) and (answer.status, answer.code) == (500, "engine_failed")
    running.stop()


def test_an_engine_that_fails_takes_its_process_along_rather_than_leave_jobs_unanswered() -> None:
    died = threading.Event()
    running = engine(FakeModel(RuntimeError("nobody thought of this"), fails_at=2), on_death=died.set)
    running.start()
    running.submit(job())
    assert died.wait(10)


def test_whatever_fails_at_the_start_is_told_to_who_started_it() -> None:
    with pytest.raises(LlamaError, match="status 1"):
        engine(FakeModel(LlamaError("status 1"), fails_at=1)).start()


@pytest.mark.parametrize(
    ("both_ways", "pooling", "only"),
    [
        (True, None, True),
        (True, Pooling.CLS, True),
        (False, Pooling.LAST, True),
        (False, Pooling.RANK, True),
        (False, Pooling.NONE, False),
        (False, None, False),
    ],
)
def test_who_names_a_pooling_or_looks_ahead_writes_no_text(
    both_ways: bool, pooling: Pooling | None, only: bool
) -> None:
    model = FakeModel()
    model.attends_both_ways, model.pooling = both_ways, pooling
    assert embeds_only(cast(Model, model)) is only
