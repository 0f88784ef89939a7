"""When a comment on a load is due."""

from typing import Any

from inference.gateway.call import Call
from inference.gateway.load_teller import LoadTeller
from inference.protocol import LoadSeconds, LoadStage, LoadTier, LoadView, ReplicaState, ReplicaView


def a_view(stage: LoadStage, progress: float, version_pk: int = 1) -> ReplicaView:
    expected = LoadSeconds(starting=1.0, reading=1.0, warming=1.0)
    return ReplicaView(
        version_pk=version_pk,
        model="m",
        version="1.0.0",
        state=ReplicaState.LOADING,
        reason="",
        socket=None,
        progress=progress,
        since=0.0,
        load=LoadView(stage=stage, since=0.0, tier=LoadTier.DISK, expected=expected),
    )


class Client:
    """What it gets, and a clock for when."""

    def __init__(self) -> None:
        self.now = 5.0
        self.sent: list[dict[str, Any]] = []
        self.call = Call({"method": "POST", "path": "/", "headers": []}, None, self._take)  # type: ignore[arg-type]
        self.teller = LoadTeller(self.call, [(b"x-nopenai-strategy", b"random")], clock=lambda: self.now)

    async def _take(self, message: Any) -> None:
        self.sent.append(message)

    @property
    def comments(self) -> list[str]:
        return [message["body"].decode() for message in self.sent if message["type"] == "http.response.body"]


async def test_within_a_stage_one_a_second_is_told_and_it_is_the_newest() -> None:
    client = Client()
    for quarter in range(9):
        await client.teller.tell(a_view(LoadStage.READING, quarter / 8))
        client.now += 0.25
    assert [comment.split()[4] for comment in client.comments] == ["progress=0.00", "progress=0.50", "progress=1.00"]


async def test_a_change_of_stage_is_told_at_once() -> None:
    client = Client()
    for stage in (LoadStage.STARTING, LoadStage.READING, LoadStage.WARMING):
        await client.teller.tell(a_view(stage, 0.0))
    assert len(client.comments) == 3


async def test_another_versions_load_is_told_at_once() -> None:
    client = Client()
    await client.teller.tell(a_view(LoadStage.READING, 0.9))
    await client.teller.tell(a_view(LoadStage.READING, 0.1, version_pk=2))
    assert len(client.comments) == 2


async def test_the_head_is_sent_with_the_first_comment_and_not_before() -> None:
    client = Client()
    await client.teller.tell(None)
    assert not client.call.started
    await client.teller.tell(a_view(LoadStage.STARTING, 0.0))
    await client.teller.tell(a_view(LoadStage.READING, 0.0))
    heads = [message for message in client.sent if message["type"] == "http.response.start"]
    assert [head["status"] for head in heads] == [200]
    assert (b"x-nopenai-strategy", b"random") in heads[0]["headers"]


async def test_a_comment_is_one_line_that_begins_with_a_colon() -> None:
    client = Client()
    await client.teller.tell(a_view(LoadStage.READING, 0.421))
    (comment,) = client.comments
    assert comment.startswith(": loading position=0 stage=reading_weights progress=0.42 eta=")
    assert comment.endswith("s\n\n")
    assert comment.count("\n") == 2
