"""Tiny models of several shapes, their contexts, and engines on them in this process."""

import os
import queue
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from inference.engine.contexts import Contexts
from inference.engine.engine import Engine
from inference.engine.jobs import AnyJob, Job
from inference.engine.llama import Model, silence_native_log
from inference.engine.sequences import Limits, Pool
from inference.protocol import (
    CacheBudget,
    CacheReport,
    Delta,
    EngineParameters,
    Failed,
    Finished,
    Generate,
    Partition,
    Sampling,
    WorkerToGateway,
)
from tests import gguf_files

LIMITS = Limits(lanes=4, lane_tokens=256, long_slots=2, long_tokens=512)
ALICE = Partition(name="alice", key=b"a" * 32)
BOB = Partition(name="bob", key=b"b" * 32)
ROOMY = CacheBudget(ram_bytes=64 << 20, ssd_bytes=64 << 20)
PROMPTS = {
    "english": "The quick brown fox jumps over the lazy dog, and then it rests in the shade of an old oak. " * 8,
    "arabic": "مرحبا بالعالم. الشمس تشرق من الشرق وتغرب في الغرب كل يوم. " * 4,
    "chinese": "你好,世界。今天的天气很好,我们去公园散步吧。" * 8,
}
PARAMETERS = {
    "": EngineParameters(),
    "unified": EngineParameters(unified=True),
    "flash": EngineParameters(flash_attention="on"),
    "q8_0": EngineParameters(kv_type="q8_0"),
    "q4_0": EngineParameters(kv_type="q4_0", unified=True),
    "stretched": EngineParameters(rope_freq_scale=0.5, rope_freq_base=20_000.0),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    silence_native_log(lambda level, text: None, verbose=False)
    folder = tmp_path_factory.mktemp("models")
    gguf_files.write_model(folder / "llama.gguf")
    gguf_files.write_sliding(folder / "sliding.gguf", window=16)
    gguf_files.write_recurrent(folder / "recurrent.gguf")
    gguf_files.write_hybrid(folder / "hybrid.gguf")
    return folder


Models = Callable[[str], tuple[Model, Path]]


@pytest.fixture(scope="module")
def models(folder: Path, smollm2: Path) -> Callable[[str], tuple[Model, Path]]:
    loaded: dict[str, tuple[Model, Path]] = {}

    def load(name: str) -> tuple[Model, Path]:
        """By its file's name and, after a space, its parameters'."""
        if name not in loaded:
            stem, _, parameters = name.partition(" ")
            path = smollm2 if stem == "smollm2" else folder / f"{stem}.gguf"
            loaded[name] = Model([str(path)], lambda _: None, PARAMETERS[parameters]), path
        return loaded[name]

    return load


ContextsOf = Callable[[str], Contexts]


@pytest.fixture
def contexts_of(models: Models) -> Iterator[ContextsOf]:
    """Contexts of a model, which take some hundred megabytes, for one test."""
    made: list[Contexts] = []

    def make(name: str) -> Contexts:
        made.append(Contexts(models(name)[0], LIMITS, 2))
        return made[-1]

    yield make
    for contexts in made:
        contexts.close()


def greedy(contexts: Contexts, pool: Pool, slot: int, token: int, position: int, count: int = 12) -> np.ndarray:
    """Logits of ``count`` greedy steps, the first of which computes ``token``."""
    context = contexts.of(pool)
    assert context is not None
    rows = []
    for at in range(position, position + count):
        context.decode([token], [at], [slot], [0])
        rows.append(context.logits(1)[0].copy())
        token = int(rows[-1].argmax())
    return np.stack(rows)


class Running:
    """An engine in this process, and what it says."""

    def __init__(self, model: Model, path: Path, directory: Path | None, limits: Limits = LIMITS) -> None:
        self._messages: queue.SimpleQueue[tuple[AnyJob | None, WorkerToGateway]] = queue.SimpleQueue()
        self._ids = 0
        self.report = CacheReport()
        self.engine = Engine(
            model, limits, 2, self._take, files=(str(path),), cache_directory=directory, on_death=lambda: os.abort()
        )
        self.engine.start()

    def _take(self, messages: list[tuple[AnyJob | None, WorkerToGateway]]) -> None:
        for message in messages:
            self._messages.put(message)

    def submit(self, tokens: list[int], **fields: object) -> Job:
        self._ids += 1
        more = {"max_tokens": 8, "sampling": Sampling(temperature=0), "ignore_eos": True, "partition": ALICE} | fields
        shared = more.pop("shared_tokens", 0)
        request = Generate(id=self._ids, request_id=str(self._ids), **more)  # type: ignore[arg-type]
        limit = len(tokens) + (request.max_tokens or 0)
        job = Job(peer=0, request=request, tokens=tokens, limit=limit, shared_tokens=shared)  # type: ignore[arg-type]
        self.engine.submit(job)
        return job

    def run(self, tokens: list[int], **fields: object) -> tuple[list[str], Finished]:
        """The texts of all choices, and the end."""
        return self.finish([self.submit(tokens, **fields)])[0]

    def finish(self, jobs: list[Job]) -> list[tuple[list[str], Finished]]:
        texts = {job: [""] * job.request.n for job in jobs}
        ends: dict[Job, Finished] = {}
        while len(ends) < len(jobs):
            job, message = self._messages.get(timeout=60)
            if isinstance(message, CacheReport):
                self.report = message
            assert not isinstance(message, Failed), message
            if job in texts and isinstance(message, Delta):
                texts[job][message.index] += message.text
            if job in texts and isinstance(message, Finished):
                ends[job] = message
        return [(texts[job], ends[job]) for job in jobs]

    def until_report(self, wanted: Callable[[CacheReport], bool]) -> CacheReport:
        while not wanted(self.report):
            _, message = self._messages.get(timeout=60)
            if isinstance(message, CacheReport):
                self.report = message
        return self.report


Start = Callable[..., Running]


@pytest.fixture
def start(models: Models, tmp_path: Path) -> Iterator[Start]:
    engines: list[Running] = []

    def start(name: str = "llama", *, budget: CacheBudget = ROOMY, limits: Limits = LIMITS) -> Running:
        running = Running(*models(name), tmp_path / "kv", limits)
        running.engine.set_cache_budget(budget)
        engines.append(running)
        return running

    yield start
    for running in engines:
        running.engine.stop()


def text_tokens(models: Models, name: str, language: str = "english", count: int = 140) -> list[int]:
    return models(name)[0].tokenize(PROMPTS[language], add_special=True)[:count]
