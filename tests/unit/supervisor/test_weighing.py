"""Versions are weighed by their files, and workers by what the kernel says of them."""

import os
from collections.abc import Mapping
from pathlib import Path

from inference.protocol import EngineParameters, ModelSpec
from inference.supervisor.events import Weighed
from inference.supervisor.fit import PROCESS_BYTES, Footprint
from inference.supervisor.footprints import Footprints, anonymous_bytes
from inference.supervisor.weighing import Scales, weight_of
from tests.gguf_files import write_encoder, write_model, write_shards
from tests.waiting import until

OWN = EngineParameters()
MIB = 1 << 20


def spec(*files: Path) -> ModelSpec:
    return ModelSpec(version_pk=1, model="Tiny", version="1.0.0", files=tuple(map(str, files)))


class Weighing:
    def __init__(self, footprint: Footprint | None = None) -> None:
        self.posted: list[Weighed] = []
        self.scales = Scales(self.posted.append, parameters=lambda _: OWN, footprint=lambda _: footprint)

    async def weigh(self, spec: ModelSpec) -> Weighed:
        self.scales.weigh(spec)
        await until(lambda: bool(self.posted))
        return self.posted.pop()


# --- Files ---


def test_the_header_and_the_size_of_all_files_count(tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf", context_length=700, layers=3)
    weight = weight_of((str(path),))
    assert (weight.files_bytes, weight.context_tokens, weight.shape.layers) == (path.stat().st_size, 700, 3)
    assert not weight.embeds_only
    shards = write_shards(tmp_path, "parts", 3)
    assert weight_of(tuple(map(str, shards))).files_bytes == sum(shard.stat().st_size for shard in shards)


def test_an_encoder_only_embeds(tmp_path: Path) -> None:
    assert weight_of((str(write_encoder(tmp_path / "encoder.gguf")),)).embeds_only


async def test_what_can_not_be_read_is_weighed_all_the_same() -> None:
    weighed = await Weighing().weigh(spec(Path("/nowhere/Free.gguf")))
    assert [option.ram_bytes for option in weighed.options] == [PROCESS_BYTES]


async def test_a_file_that_is_there_later_is_weighed_then(tmp_path: Path) -> None:
    weighing, path = Weighing(), tmp_path / "tiny.gguf"
    await weighing.weigh(spec(path))
    write_model(path)
    assert (await weighing.weigh(spec(path))).options[0].ram_bytes > PROCESS_BYTES


async def test_known_files_are_weighed_at_once_and_anew_when_more_is_known(tmp_path: Path) -> None:
    weighing = Weighing()
    tiny = spec(write_model(tmp_path / "tiny.gguf"))
    weighing.scales.again(tiny)
    assert not weighing.posted, "it was never weighed, so nobody wants to know"
    first = await weighing.weigh(tiny)
    weighing.scales.weigh(tiny)
    weighing.scales.again(tiny)
    assert weighing.posted == [first, first]


# --- Memory ---


class Watching:
    def __init__(self) -> None:
        self.learned: list[ModelSpec] = []
        self.recorded: dict[int, Footprint] = {}
        self.footprints = Footprints(learned=self.learned.append, record=self._record)

    def _record(self, seen: Mapping[int, Footprint]) -> None:
        self.recorded |= seen

    async def ready(self, parameters: EngineParameters = OWN, cached: int = 0) -> Footprint:
        await self.footprints.ready(1, os.getpid(), spec(), parameters, lambda: cached)
        return self.recorded[1]


def test_anonymous_memory_is_what_a_process_has_of_its_own() -> None:
    before = anonymous_bytes(os.getpid())
    taken = bytearray(os.urandom(1)) * (64 * MIB)
    after = anonymous_bytes(os.getpid())
    assert before is not None and after is not None
    assert after - before > 60 * MIB and len(taken) == 64 * MIB
    assert anonymous_bytes(2**30) is None


async def test_a_worker_is_measured_when_it_is_ready_without_its_cache() -> None:
    watching = Watching()
    whole = await watching.ready()
    assert whole.under == OWN and whole.peak_bytes == whole.ready_bytes > 0
    assert watching.learned == [spec()] and watching.footprints.of(spec()) == whole
    less = await watching.ready(cached=10 * MIB)
    assert less.ready_bytes < whole.ready_bytes


async def test_the_peak_of_an_earlier_worker_with_the_same_parameters_stays() -> None:
    watching = Watching()
    watching.footprints.read({1: Footprint(under=OWN, ready_bytes=1, peak_bytes=10**12)})
    assert (await watching.ready()).peak_bytes == 10**12
    assert (await watching.ready(EngineParameters(lanes=2))).peak_bytes < 10**12


async def test_a_worker_that_grows_is_seen_to() -> None:
    watching = Watching()
    first = await watching.ready()
    await watching.footprints.look()
    assert watching.recorded[1] == first, "that is no news"
    taken = bytearray(os.urandom(1)) * max(64 * MIB, first.peak_bytes // 5)
    await watching.footprints.look()
    assert watching.recorded[1].peak_bytes > first.peak_bytes and taken
    watching.footprints.ended(1)
    watching.recorded.clear()
    await watching.footprints.look()
    assert not watching.recorded
