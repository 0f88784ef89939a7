"""What a worker counts of what leaves it."""

from inference.engine.counting import Counting
from inference.protocol import Delta, Durations, Embedded, Failed, Finished, FinishReason, WorkerCounts

FINISHED = Finished(
    id=1, reason=FinishReason.STOP, prompt_tokens=7, cached_tokens=5, completion_tokens=3, queue_seconds=0.2
)


def total(durations: Durations) -> tuple[int, float]:
    return sum(durations.counts), round(durations.seconds, 6)


def test_tokens_and_waits_are_counted_when_a_request_has_ended() -> None:
    counting = Counting()
    assert counting.counts == WorkerCounts()
    assert counting.sent("a", FINISHED, now=1.0)
    assert counting.sent("b", FINISHED, now=1.0)
    counts = counting.counts
    assert (counts.prompt_tokens, counts.cached_tokens, counts.completion_tokens) == (14, 10, 6)
    assert total(counts.queue_wait) == (2, 0.4)


def test_gaps_are_between_the_pieces_of_one_choice() -> None:
    counting = Counting()
    for job, index, now in [("a", 0, 1.0), ("a", 1, 1.1), ("b", 0, 1.2), ("a", 0, 1.5), ("a", 1, 1.6), ("a", 0, 2.5)]:
        counting.sent(job, Delta(id=1, index=index, text="x"), now)
    assert total(counting.counts.token_gap) == (3, 2.0)


def test_what_leaves_in_one_step_is_one_piece() -> None:
    counting = Counting()
    for now in (1.0, 1.0, 2.0, 2.0):
        counting.sent("a", Delta(id=1, text="x"), now)
    assert total(counting.counts.token_gap) == (1, 1.0)


def test_embeddings_count_as_prompts_and_failures_as_nothing() -> None:
    counting = Counting()
    counting.sent("a", Embedded(id=1, vectors=(), prompt_tokens=9), now=1.0)
    assert not counting.sent("b", Failed(id=1, status=500, code="x", message="y"), now=1.0)
    assert counting.counts == WorkerCounts(prompt_tokens=9)


def test_nothing_is_kept_of_requests_that_have_ended() -> None:
    counting = Counting()
    for job in ("a", "b"):
        counting.sent(job, Delta(id=1, text="x"), now=1.0)
    counting.sent("a", FINISHED, now=2.0)
    counting.sent("b", Failed(id=1, status=500, code="x", message="y"), now=2.0)
    assert counting._left == {}
