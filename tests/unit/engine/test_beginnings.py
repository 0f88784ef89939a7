"""How the choices of a request begin."""

from typing import Any, cast

from inference.engine.beginnings import Beginnings
from inference.engine.jobs import Job
from inference.engine.kv import Kv
from inference.protocol import Generate


class NoCache:
    def chain(self, *_: Any) -> None:
        return None

    def stops(self, *_: Any) -> tuple[int, ...]:
        return ()


def test_a_request_that_was_begun_does_not_expire_while_its_other_choices_wait_for_a_lane() -> None:
    request = Generate(id=1, request_id="r", text="x", n=3, queue_seconds=30.0)
    job = Job(peer=None, request=request, tokens=[1, 2], limit=8, arrived=100.0)
    beginnings = Beginnings(cast(Kv, NoCache()))
    assert [beginnings.choice(job, index).sequence.start_by for index in range(3)] == [130.0, None, None]
