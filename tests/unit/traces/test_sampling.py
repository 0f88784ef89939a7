"""Which requests are traced."""

import random

import pytest

from inference.traces.context import Parent, new_trace_id
from inference.traces.sampling import Rule, Sampler


def parent(*, sampled: bool) -> Parent:
    return Parent(trace_id=new_trace_id(), span_id=b"12345678", sampled=sampled)


@pytest.mark.parametrize(
    ("rule", "alone", "in_a_sampled_one", "in_an_unsampled_one"),
    [
        (Rule.ALWAYS_ON, True, True, True),
        (Rule.ALWAYS_OFF, False, False, False),
        (Rule.PARENT_ALWAYS_ON, True, True, False),
        (Rule.PARENT_ALWAYS_OFF, False, True, False),
    ],
)
def test_the_rules_of_the_specification(
    rule: Rule, alone: bool, in_a_sampled_one: bool, in_an_unsampled_one: bool
) -> None:
    sampler = Sampler.of(rule)
    assert sampler.samples(new_trace_id(), None) is alone
    assert sampler.samples(new_trace_id(), parent(sampled=True)) is in_a_sampled_one
    assert sampler.samples(new_trace_id(), parent(sampled=False)) is in_an_unsampled_one


def test_a_ratio_is_kept_within_binomial_bounds_and_is_the_same_everywhere() -> None:
    draw, sampler = random.Random(3), Sampler.of(Rule.PARENT_RATIO, 0.1)
    ids = [draw.getrandbits(128).to_bytes(16) for _ in range(10_000)]
    sampled = [sampler.samples(each, None) for each in ids]
    assert 900 < sum(sampled) < 1100  # ± 3.3 standard deviations
    assert sampled == [Sampler.of(Rule.RATIO, 0.1).samples(each, None) for each in ids]


@pytest.mark.parametrize(("ratio", "expected"), [(0.0, False), (1.0, True)])
def test_none_and_all(ratio: float, expected: bool) -> None:
    sampler = Sampler.of(Rule.RATIO, ratio)
    assert sampler.samples(b"\x00" * 15 + b"\x01", None) is expected
    assert sampler.samples(b"\xff" * 16, None) is expected
