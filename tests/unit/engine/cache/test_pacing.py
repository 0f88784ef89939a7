"""Flash wears: never more than the rate, never more than the day's budget."""

from hypothesis import given
from hypothesis import strategies as st

from inference.engine.cache.pacing import RECORD_BYTES, DayCount, TokenBucket, decode, encode

NOON = 1_700_000_000.0
DAY = 86_400.0


def test_a_burst_of_a_second_passes_and_the_rest_waits() -> None:
    bucket = TokenBucket(100, now=0.0)
    assert bucket.seconds_until_free(0.0) == 0
    bucket.take(150)
    assert bucket.seconds_until_free(0.0) == 0.5
    assert bucket.seconds_until_free(0.25) == 0.25
    assert bucket.seconds_until_free(0.5) == 0


def test_a_block_larger_than_the_burst_passes_and_is_paid_for_afterwards() -> None:
    bucket = TokenBucket(10, now=0.0)
    bucket.take(1000)
    assert bucket.seconds_until_free(0.0) == 99


def test_idle_time_is_saved_up_for_one_second_only() -> None:
    bucket = TokenBucket(100, now=0.0)
    bucket.seconds_until_free(1000.0)
    bucket.take(200)
    assert bucket.seconds_until_free(1000.0) == 1


def test_a_new_rate_holds_from_now_on() -> None:
    bucket = TokenBucket(100, now=0.0)
    bucket.take(300)
    bucket.set_rate(10, now=1.0)
    assert bucket.seconds_until_free(1.0) == 10


def test_at_a_rate_of_nothing_nothing_is_written() -> None:
    bucket = TokenBucket(100, now=0.0)
    bucket.set_rate(0, now=0.0)
    assert bucket.seconds_until_free(0.0) > 0
    assert bucket.seconds_until_free(1e6) > 0


@given(st.lists(st.tuples(st.integers(1, 500), st.floats(0, 3)), min_size=1, max_size=60), st.integers(1, 300))
def test_in_no_stretch_of_time_more_is_written_than_the_rate_allows(writes: list[tuple[int, float]], rate: int) -> None:
    bucket, now, done = TokenBucket(rate, now=0.0), 0.0, list[tuple[float, int]]()
    for size, pause in writes:
        now += pause
        now += bucket.seconds_until_free(now)
        bucket.take(size)
        done.append((now, size))
    largest = max(size for size, _ in writes)
    for first in range(len(done)):
        written = 0
        for moment, size in done[first:]:
            written += size
            assert written <= rate * (moment - done[first][0] + 1) + largest + 1e-6


def test_a_days_budget_is_spent_to_the_last_byte_and_no_further() -> None:
    count = DayCount().plus(60, limit=100, now=NOON)
    assert count is not None and count.bytes == 60
    assert count.plus(41, limit=100, now=NOON) is None
    full = count.plus(40, limit=100, now=NOON)
    assert full is not None and full.bytes == 100
    assert full.plus(1, limit=100, now=NOON) is None


def test_the_next_utc_day_begins_with_nothing_written() -> None:
    count = DayCount().plus(100, limit=100, now=NOON)
    assert count is not None
    assert count.plus(70, limit=100, now=NOON + DAY) == DayCount("2023-11-15", 70)


def test_a_record_survives_its_file() -> None:
    count = DayCount().plus(123, limit=1000, now=NOON)
    assert count is not None
    assert decode(encode(count)) == count


@given(st.integers(0, 2**63), st.floats(0, 4e9))
def test_a_record_always_has_the_same_size(written: int, now: float) -> None:
    count = DayCount().plus(written, limit=2**64, now=now)
    assert count is not None
    assert len(encode(count)) == RECORD_BYTES and decode(encode(count)) == count


@given(st.binary(max_size=40))
def test_what_is_no_record_counts_as_nothing_written(record: bytes) -> None:
    count = decode(record)
    assert count == DayCount() or encode(count).split() == record.split()
