"""Several requests to one worker that are one answer: a completion of several prompts.

Each prompt is a request of its own to the worker; its choices are numbered after those of the prompts before it.
"""

from collections.abc import Sequence

import msgspec

from inference.gateway.workers import Connection, Meter, Stream, StreamMessage
from inference.protocol import Accepted, Delta, Failed, Finished, FinishReason, Generate


def begin_joint(connection: Connection, requests: Sequence[Generate], meters: Sequence[Meter | None]) -> Stream:
    """Send all of them. Raises WorkerLost."""
    joint = JointStream(connection, requests)
    for position, (request, meter) in enumerate(zip(requests, meters, strict=True)):
        connection.begin_for(_Part(joint, position * request.n), request, meter)
    return joint


class JointStream(Stream):
    """What the worker says about all of them, as if it were one request."""

    __slots__ = ("_finished", "_open", "_prompt_tokens")

    def __init__(self, connection: Connection, requests: Sequence[Generate]) -> None:
        super().__init__(connection, requests[0].id)
        self._open = {request.id for request in requests}
        """Those that the worker still works on."""
        self._prompt_tokens = 0
        self._finished: list[Finished] = []

    def cancel(self) -> None:
        if not self.ended:
            self.ended = True
            self._abandon()

    def lose(self, fault: str) -> None:
        if not self.ended:
            super().lose(fault)
            self._abandon()

    def take(self, message: StreamMessage) -> None:
        """What one of them has said."""
        if isinstance(message, Finished | Failed):
            self._open.discard(message.id)
        if self.ended:
            return
        if isinstance(message, Accepted):
            self._prompt_tokens += message.prompt_tokens
            self.feed(Accepted(id=message.id, prompt_tokens=self._prompt_tokens))
        elif isinstance(message, Finished):
            self._finished.append(message)
            if not self._open:
                self.feed(_sum(self._finished))
        else:
            self.feed(message)
            if isinstance(message, Failed):
                self._abandon()

    def _abandon(self) -> None:
        for stream_id in self._open:
            self._connection.abandon(stream_id)


class _Part:
    """One of them, in the connection's books."""

    __slots__ = ("_first_choice", "_joint", "_told", "ended")

    def __init__(self, joint: JointStream, first_choice: int) -> None:
        self._joint = joint
        self._first_choice = first_choice
        self._told = False
        """The worker says itself how each choice ends."""
        self.ended = False

    def feed(self, message: StreamMessage) -> None:
        if isinstance(message, Delta):
            self._told = self._told or message.finish is not None
            message = msgspec.structs.replace(message, index=message.index + self._first_choice)
        elif isinstance(message, Finished | Failed):
            self.ended = True
        if isinstance(message, Finished):
            if message.reason is FinishReason.CANCELLED:
                self._joint.lose("the worker was stopped")
                return
            if not self._told:
                self._joint.take(Delta(id=message.id, index=self._first_choice, finish=message.reason))
        self._joint.take(message)

    def lose(self, fault: str) -> None:
        self.ended = True
        self._joint.lose(fault)


def _sum(finished: Sequence[Finished]) -> Finished:
    """Tokens add up; times are those of the one that took longest, as they ran side by side."""
    return Finished(
        id=finished[0].id,
        reason=finished[-1].reason,
        prompt_tokens=sum(each.prompt_tokens for each in finished),
        completion_tokens=sum(each.completion_tokens for each in finished),
        cached_tokens=sum(each.cached_tokens for each in finished),
        queue_seconds=max(each.queue_seconds for each in finished),
        prefill_seconds=max(each.prefill_seconds for each in finished),
        decode_seconds=max(each.decode_seconds for each in finished),
    )
