"""What is counted, and by whom."""

from inference.gateway.usage import UsageBook
from quotas.usage.counts import COUNTED, UsageCounts, UsageKey

ADA = UsageKey(hour=0, key_pk=1, tenant="ada", model="tiny")


def note(book: UsageBook, key: UsageKey, counts: UsageCounts) -> None:
    book.add(key.hour, key.key_pk, key.tenant, key.model, counts)


def test_counts_add_up_field_by_field() -> None:
    sums = UsageCounts(**{name: place for place, name in enumerate(COUNTED)})
    sums.add(UsageCounts(**{name: 10 * place for place, name in enumerate(COUNTED)}))
    assert [getattr(sums, name) for name in COUNTED] == [11 * place for place in range(len(COUNTED))]


def test_a_book_adds_up_what_is_of_the_same_key_model_and_hour_only() -> None:
    book = UsageBook()
    nobody = UsageKey(hour=0, key_pk=None, tenant="ada", model="tiny")
    for key in (ADA, nobody, ADA):
        note(book, key, UsageCounts(requests=1, seconds=0.5))
    assert book.take() == {ADA: UsageCounts(requests=2, seconds=1.0), nobody: UsageCounts(requests=1, seconds=0.5)}


def test_what_was_taken_from_a_book_is_in_it_no_more() -> None:
    book = UsageBook()
    note(book, ADA, UsageCounts(requests=1))
    taken = book.take()
    note(book, ADA, UsageCounts(refused=1))
    assert taken == {ADA: UsageCounts(requests=1)}
    assert book.take() == {ADA: UsageCounts(refused=1)}
    assert book.take() == {}
