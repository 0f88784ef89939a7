"""What waits longest for a user is done first; what waits in memory is bounded."""

from inference.engine.cache.mailbox import Chore, Fetch, Mailbox, Task, Uses, Write
from tests.kv_blocks import KEY, budget, label, name, payload


def write(number: int) -> Write:
    return Write(label(number), payload(number, 840), KEY)


def fetch() -> Fetch:
    return Fetch((), lambda _: None)


def take(mailbox: Mailbox) -> Task | None:
    return mailbox.take(lambda: 0.0, lambda: 0.0)


def test_uses_then_fetches_then_a_budget_then_writes_then_chores() -> None:
    mailbox = Mailbox(10_000)
    mailbox.write(block := write(1))
    mailbox.set_budget(budget(5))
    mailbox.fetch(first := fetch())
    mailbox.fetch(second := fetch())
    mailbox.use([name(1)])
    assert [take(mailbox) for _ in range(5)] == [Uses([name(1)]), first, second, budget(5), block]
    mailbox.finish(block)
    assert take(mailbox) is Chore.SAVE_USES


def test_a_write_that_must_wait_for_the_rate_holds_up_nothing_else() -> None:
    mailbox = Mailbox(10_000)
    mailbox.write(write(1))
    mailbox.fetch(asked := fetch())
    assert mailbox.take(lambda: 60.0, lambda: None) == asked
    assert mailbox.take(lambda: 60.0, lambda: 0.0) is Chore.SAVE_USES


def test_writes_are_done_in_order() -> None:
    mailbox, writes = Mailbox(10_000), [write(number) for number in range(3)]
    for one in writes:
        mailbox.write(one)
    for one in writes:
        assert take(mailbox) is one
        mailbox.finish(one)


def test_only_so_many_bytes_wait() -> None:
    mailbox = Mailbox(2500)
    writes = [write(number) for number in range(3)]
    assert [mailbox.write(one) for one in writes] == [True, True, False]
    assert take(mailbox) is writes[0]
    assert not mailbox.write(writes[2]), "what is being written is in memory, too"
    mailbox.finish(writes[0])
    assert mailbox.write(writes[2])


def test_a_block_waits_once() -> None:
    mailbox = Mailbox(10_000)
    assert mailbox.write(first := write(1)) and mailbox.write(write(1))
    assert mailbox.waiting_writes() == [first]


def test_only_the_last_budget_counts() -> None:
    mailbox = Mailbox(0)
    mailbox.set_budget(budget(1))
    mailbox.set_budget(budget(2))
    assert take(mailbox) == budget(2)
    assert take(mailbox) is Chore.SAVE_USES


def test_it_is_idle_when_what_was_taken_is_done() -> None:
    mailbox = Mailbox(10_000)
    assert mailbox.wait_idle(0)
    mailbox.fetch(fetch())
    assert not mailbox.wait_idle(0)
    take(mailbox)
    assert not mailbox.wait_idle(0)
    mailbox.close()
    assert take(mailbox) is None
    assert mailbox.wait_idle(0)


def test_closed_it_gives_out_nothing_and_takes_nothing() -> None:
    mailbox = Mailbox(10_000)
    mailbox.fetch(asked := fetch())
    mailbox.close()
    assert take(mailbox) is None
    assert not mailbox.fetch(fetch())
    mailbox.write(write(1))
    assert mailbox.unanswered() == [asked]
    assert mailbox.waiting_writes() == []
