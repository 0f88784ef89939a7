"""Drawing by weight."""

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from routing.urn import SCALE, Urn
from tests.unit.routing.chance import chi_square_fits


def test_each_is_drawn_by_its_weight() -> None:
    urn: Urn[str] = Urn()
    weights = {"a": 0.5, "b": 1.0, "c": 7.25, "d": 0.01, "e": 1000.0, "never": 0.0}
    for item, weight in weights.items():
        urn.put(item, weight)
    draw = random.Random(7).random
    drawn = Counter(urn.draw(draw) for _ in range(100_000))
    expected = {item: weight / sum(weights.values()) for item, weight in weights.items() if weight}
    assert drawn["never"] == 0
    assert all(abs(urn.share(item) - share) < 1e-6 for item, share in expected.items())
    assert chi_square_fits(drawn, expected)


def test_a_weight_that_changes_counts_from_then_on() -> None:
    urn: Urn[str] = Urn()
    urn.put("a", 1.0)
    urn.put("b", 3.0)
    urn.put("a", 0.0)
    assert {urn.draw(random.Random(1).random) for _ in range(50)} == {"b"}
    urn.put("a", 3.0)
    draw = random.Random(2).random
    assert chi_square_fits(Counter(urn.draw(draw) for _ in range(10_000)), {"a": 0.5, "b": 0.5})


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(0, 1e6)), max_size=100), st.random_module())
def test_sums_are_exact_and_nobody_without_weight_is_drawn(changes: list[tuple[int, float]], _: object) -> None:
    urn: Urn[int] = Urn()
    weights: dict[int, float] = {}
    for item, weight in changes:
        urn.put(item, weight)
        weights[item] = weight
    scaled = {item: max(1, round(weight * SCALE)) for item, weight in weights.items() if weight}
    assert len(urn) == len(scaled) and urn._total == sum(scaled.values())
    if scaled:
        assert all(urn.draw(random.random) in scaled for _ in range(20))
