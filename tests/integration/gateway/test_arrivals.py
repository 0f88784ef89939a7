"""What a gateway records of its requests, read back from the files."""

import time
from pathlib import Path

import pytest

from inference.gateway.arrivals import Ended
from inference.gateway.arrivals_thread import PATTERN, ArrivalThread
from inference.protocol import ReplicaState
from registry.catalogue import Model
from routing.config import Strategy
from routing.replay.comparison import compare
from routing.replay.records import FORMAT, Fleet, Outcome, Recording, encode_line, recording_of
from routing.replay.service import LEAST_ANSWERS
from routing.replay.trace import trace_of
from tests.catalogue import a_model, a_version
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, a_view
from tests.integration.gateway.test_caches import a_caller, key
from tests.integration.gateway.test_routing import answering, configure
from tests.waiting import until

A = a_model("A", a_version("A", 1, context_length=4096))
B = a_model("B", a_version("B", 2))
SECRET = "The launch code is swordfish."


async def recording_rig(start_rig: StartRig, directory: Path, *models: Model) -> Rig:
    """Its models are ready; ``ada`` has a cache of her own."""
    callers = a_caller("ada")
    rig = await start_rig(*models, callers=callers, arrivals=ArrivalThread(directory, b"of this installation"))
    views = [(await rig.worker(model, ready=False)).view for model in models]
    rig.supervisor.publish(*views)
    await until(lambda: len(list(rig.gateway.state.targets)) == len(models))
    await until(lambda: all(target.warm for target in rig.gateway.state.targets))
    return rig


async def recorded(rig: Rig, directory: Path) -> Recording:
    """All that came until now: the gateway ends."""
    await rig.shut_down()
    return recording_of(lines(directory))


def lines(directory: Path) -> dict[str, list[bytes]]:
    return {path.name: path.read_bytes().splitlines() for path in sorted(directory.glob(PATTERN))}


def files_below(directory: Path) -> list[Path]:
    return list(directory.rglob("*.jsonl"))


def written(directory: Path) -> bytes:
    return b"".join(path.read_bytes() for path in files_below(directory))


async def test_what_a_request_was_and_how_it_was_answered_is_read_back(start_rig: StartRig, tmp_path: Path) -> None:
    rig = await recording_rig(start_rig, tmp_path / "arrivals", A, B)
    configure(rig, strategy="round_robin")
    before = time.time()
    headers = key("ada") | {"X-Session-ID": "talk"}
    first = await answering(rig, headers=headers, capabilities=["chat"], max_tokens=3)
    second = await answering(rig, headers=headers, max_tokens=3)
    recording = await recorded(rig, tmp_path / "arrivals")
    one, other = recording.arrivals
    assert [one.model, other.model] == first + second and {one.model, other.model} == {"A", "B"}
    assert before <= one.at <= other.at <= time.time()
    assert (one.route, one.named, one.kind, one.capabilities) == ("auto", False, "chat", ("chat",))
    assert one.outcome is Outcome.ANSWERED and not one.stream
    assert one.completion_tokens == 3 and one.prompt_tokens > 0 and one.first_token_seconds >= 0
    assert len(one.chain) == 1 and one.ends == (one.prompt_tokens,)
    assert one.chain == other.chain and one.session == other.session != ""
    assert recording.models.keys() == {"A", "B"}
    assert recording.models["A"].lanes == 16 and recording.models["A"].context_length == 4096
    assert recording.routing.strategy is Strategy.ROUND_ROBIN


async def test_what_a_gateway_has_recorded_is_replayed_through_all_strategies(
    start_rig: StartRig, tmp_path: Path
) -> None:
    rig = await recording_rig(start_rig, tmp_path / "arrivals", A, B)
    configure(rig, strategy="round_robin")
    for _ in range(3):
        await answering(rig, 2 * LEAST_ANSWERS // 3, headers=key("ada"), max_tokens=3)
    comparison = compare(trace_of(await recorded(rig, tmp_path / "arrivals")))
    assert comparison.requests == 2 * LEAST_ANSWERS and not comparison.left_out
    assert {result.strategy for result in comparison.results} == set(Strategy)
    assert [result.strategy for result in comparison.results if result.in_force] == [Strategy.ROUND_ROBIN]
    assert comparison.verdict.startswith("Too short for a verdict: 60 requests")


async def test_no_text_and_no_name_of_a_session_is_recorded(start_rig: StartRig, tmp_path: Path) -> None:
    rig = await recording_rig(start_rig, tmp_path / "arrivals", A)
    async with rig.client.post(
        "/v1/chat/completions",
        json={"model": "auto", "messages": [{"role": "user", "content": SECRET}]},
        headers=key("ada") | {"X-Session-ID": "swordfish"},
    ) as response:
        assert response.status == 200
    await recorded(rig, tmp_path / "arrivals")
    kept = written(tmp_path / "arrivals")
    assert b'"request"' in kept and b"swordfish" not in kept and b"ada" not in kept


async def test_files_are_their_owners_alone(start_rig: StartRig, tmp_path: Path) -> None:
    rig = await recording_rig(start_rig, tmp_path / "arrivals", A)
    await answering(rig)
    await recorded(rig, tmp_path / "arrivals")
    (path,) = files_below(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700


async def test_a_stream_is_recorded_as_one(start_rig: StartRig, tmp_path: Path) -> None:
    rig = await recording_rig(start_rig, tmp_path / "arrivals", A)
    await rig.streamed(max_tokens=3, model="A")
    (arrival,) = (await recorded(rig, tmp_path / "arrivals")).arrivals
    assert arrival.stream and arrival.named and arrival.route == "A"
    assert arrival.completion_tokens == 3 and arrival.outcome is Outcome.ANSWERED


async def test_a_client_that_left_says_nothing_of_the_model(start_rig: StartRig, tmp_path: Path) -> None:
    rig = await start_rig(A, arrivals=ArrivalThread(tmp_path / "arrivals", b"k"))
    await rig.worker(A, "--hang-after", "2")
    async with rig.chatting(stream=True, model="A") as response:
        assert response.status == 200
        await response.content.readany()
    book = rig.gateway.state.arrivals
    assert book is not None
    (target,) = rig.gateway.state.targets
    await until(lambda: target.work == 0)
    (arrival,) = (await recorded(rig, tmp_path / "arrivals")).arrivals
    assert arrival.outcome is Outcome.LEFT


async def test_a_request_that_failed_is_recorded_as_that(start_rig: StartRig, tmp_path: Path) -> None:
    rig = await recording_rig(start_rig, tmp_path / "arrivals", A)
    failed = a_view(A, ReplicaState.FAILED, reason="out of memory", retry_at=time.time() + 60)
    rig.supervisor.publish(failed)
    await until(lambda: rig.gateway.nodes.view[1].state is ReplicaState.FAILED)
    response, _ = await rig.chat(model="A")
    assert response.status == 503
    assert (await recorded(rig, tmp_path / "arrivals")).arrivals[0].outcome is Outcome.FAILED


async def test_nothing_is_recorded_unless_it_was_asked_for(start_rig: StartRig) -> None:
    rig = await start_rig(A)
    await rig.worker(A)
    await answering(rig, 3)
    assert rig.gateway.state.arrivals is None
    await rig.shut_down()
    assert not files_below(rig.directory)


def a_fleet(number: int) -> Fleet:
    return Fleet(at=float(number))


async def test_files_follow_one_another_and_the_oldest_go(tmp_path: Path) -> None:
    line = len(encode_line(a_fleet(1000)))
    thread = ArrivalThread(tmp_path, b"k", file_bytes=4 * line, most_bytes=20 * line)
    thread.start()
    for number in range(1000, 1200):
        batch: list[Ended | Fleet] = [a_fleet(number)]
        thread.write(batch)
        await until(lambda: thread.idle)
    await thread.stop()
    files = files_below(tmp_path)
    assert sum(path.stat().st_size for path in files) <= 20 * line
    assert len(files) > 1
    newest = max(files, key=lambda path: path.stat().st_mtime_ns)
    assert encode_line(a_fleet(1199)) in newest.read_bytes()
    for rows in lines(tmp_path).values():
        assert b'"format":%d' % FORMAT in rows[0] and b'"fleet"' in rows[1]


async def test_a_directory_that_is_cleared_is_written_to_again(tmp_path: Path) -> None:
    thread = ArrivalThread(tmp_path, b"k")
    thread.start()
    for number in range(2):
        for path in files_below(tmp_path):
            path.unlink()
        thread.write([a_fleet(number)])
        await until(lambda: thread.idle)
    await thread.stop()
    assert b'"at":1.0' in written(tmp_path)


async def test_a_directory_that_can_not_be_written_stops_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    thread = ArrivalThread(tmp_path / "file" / "arrivals", b"k")
    thread.start()
    thread.write([a_fleet(1)])
    thread.write([a_fleet(2)])
    await thread.stop()
    assert not thread.alive
