"""What a node has counted of A/B tests, on its way to SQL."""

from inference.protocol import ExperimentSums, VariantSums
from inference.supervisor.experiments import Letter, Outbox


def requests(count: int) -> ExperimentSums:
    return ExperimentSums(b=VariantSums(requests=count))


def told(letter: Letter | None) -> dict[str, int]:
    assert letter is not None
    return {name: counts.b.requests for name, counts in letter.counts.items()}


def test_what_was_counted_goes_out_together_and_once() -> None:
    outbox = Outbox()
    assert outbox.next() is None
    outbox.put({"one": {"half": requests(1)}, "other": {"half": requests(5)}})
    outbox.put({"one": {"half": requests(2)}})
    assert told(outbox.next()) == {"one": 3, "other": 5}
    outbox.arrived()
    assert outbox.next() is None


def test_what_came_under_different_splits_is_one_count_of_a_roll_out() -> None:
    outbox = Outbox()
    outbox.put({"one": {"half": requests(1), "a tenth": requests(3)}})
    assert told(outbox.next()) == {"one": 4}


def test_a_letter_that_has_not_arrived_goes_out_as_it_was_and_the_rest_follows() -> None:
    outbox = Outbox()
    outbox.put({"one": {"half": requests(1)}})
    first = outbox.next()
    outbox.put({"one": {"half": requests(2)}})
    assert outbox.next() is first
    outbox.arrived()
    second = outbox.next()
    assert told(second) == {"one": 2}
    assert first is not None and second is not None and second.number > first.number and second.run == first.run


def test_each_supervisor_has_a_run_of_its_own() -> None:
    letters = []
    for outbox in (Outbox(), Outbox()):
        outbox.put({"one": {"half": requests(1)}})
        letters.append(outbox.next())
    assert letters[0] is not None and letters[1] is not None and letters[0].run != letters[1].run
