"""What an operator is told of an A/B test."""

import pytest

from routing.experiments.results import VariantCounts
from routing.experiments.verdict import Metric, Outcome, Verdict, verdict
from tests.unit.routing.experiments.arms import counts


def outcomes(found: Verdict) -> dict[Metric, Outcome]:
    return {finding.metric: finding.outcome for finding in found.findings}


def test_of_nothing_and_of_little_nothing_is_said() -> None:
    found = verdict(VariantCounts(), VariantCounts())
    assert found.words.startswith("Nothing can be said yet: A was asked never, B never")
    assert found.winner is None and set(outcomes(found).values()) == {Outcome.NONE}
    assert "A was asked 30 times, B once" in verdict(counts(30), counts(1)).words


def test_a_faster_variant_wins_and_it_is_said_by_how_much_it_surely_does() -> None:
    found = verdict(counts(1000, errors=10), counts(1000, errors=9, first_token_seconds=0.32))
    assert outcomes(found) == {
        Metric.ERRORS: Outcome.NONE,
        Metric.FIRST_TOKEN: Outcome.BETTER,
        Metric.TOKENS: Outcome.NONE,
    }
    assert found.winner == "B" and found.words.startswith("B is better.")
    assert "B's first token comes 20 % sooner than A's (surely between 13 % and 27 %)." in found.words
    assert "B's error rate can't be told from A's yet: B failed 0.9 % of its requests, A 1.0 %" in found.words
    assert "more requests would tell 1 percentage point" in found.words


def test_a_variant_that_fails_more_often_loses() -> None:
    found = verdict(counts(1000, errors=10), counts(1000, errors=80))
    assert found.winner == "A" and outcomes(found)[Metric.ERRORS] is Outcome.WORSE
    assert "B fails more often than A: B failed 8.0 % of its requests, A 1.0 % (surely between" in found.words


def test_requests_that_the_other_had_to_answer_count_as_failed() -> None:
    assert verdict(counts(1000), counts(1000, unavailable=100)).winner == "A"


def test_few_requests_of_a_variant_that_always_fails_are_enough() -> None:
    found = verdict(counts(1000), counts(10, errors=10))
    assert found.winner == "A" and "too few answers" in found.words


def test_nobody_wins_who_is_better_in_one_thing_and_worse_in_another() -> None:
    found = verdict(counts(1000), counts(1000, errors=80, first_token_seconds=0.3))
    assert found.winner is None and found.words.startswith("Each is better at something")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.03, "B's further tokens take 50 % more time than A's"),
        (0.015, "B's further tokens take 25 % less time than A's"),
    ],
)
def test_the_speed_of_further_tokens_is_told(seconds: float, words: str) -> None:
    found = verdict(counts(1000), counts(1000, token_seconds=seconds))
    assert words in found.words and found.winner == ("A" if seconds > 0.02 else "B")


def test_the_verdicts_of_both_sides_agree() -> None:
    a, b = counts(1000, errors=10), counts(800, errors=60, first_token_seconds=0.5)
    assert (verdict(a, b).winner, verdict(b, a).winner) == ("A", "B")


def test_equals_get_a_forecast_until_a_difference_would_have_shown() -> None:
    some, many = verdict(counts(100), counts(100)), verdict(counts(10**6), counts(10**6))
    assert some.winner is many.winner is None
    assert all(finding.more_requests for finding in some.findings)
    assert [finding.more_requests for finding in many.findings] == [0, 0, 0]
    assert some.words.startswith("Neither is surely better yet.")
    assert "a difference of 10 % would mostly have shown" in many.words


def test_variants_without_tokens_are_judged_by_their_errors() -> None:
    """Embeddings have none."""
    a, b = VariantCounts(requests=1000), VariantCounts(requests=1000, errors=100)
    assert verdict(a, b).winner == "A"
