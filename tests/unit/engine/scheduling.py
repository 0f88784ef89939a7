"""Sequences for the scheduler, and the engine's part in a step."""

from inference.engine.scheduler import Admission, Batch, Scheduler
from inference.engine.sequences import Limits, Sequence

LIMITS = Limits(lanes=2, lane_tokens=256, long_slots=2, long_tokens=1024, batch_tokens=512, prefill_beside_decode=64)


def sequence(prompt: int, completion: int = 8, name: str = "s", **more: object) -> Sequence:
    return Sequence(key=name, tokens=list(range(prompt)), limit=prompt + completion, **more)  # type: ignore[arg-type]


def added(scheduler: Scheduler, *sequences: Sequence) -> Scheduler:
    for each in sequences:
        scheduler.add(each)
    return scheduler


def counts(batch: Batch) -> dict[object, int]:
    return {chunk.sequence.key: chunk.count for chunks in batch.values() for chunk in chunks}


def step(scheduler: Scheduler, now: float = 0.0) -> tuple[Admission, Batch]:
    """A step whose batch is computed and gives every sequence that is through its prompt a token."""
    admission = scheduler.admit(now)
    batch = scheduler.batch()
    for chunks in batch.values():
        for chunk in chunks:
            chunk.sequence.computed += chunk.count
            if not chunk.sequence.pending:
                scheduler.generated(chunk.sequence, 0)
    return admission, batch
