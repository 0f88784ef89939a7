"""Memory as a vector."""

from inference.supervisor.space import Space, total


def test_places_that_are_not_named_hold_nothing() -> None:
    assert Space(2, (1,)) + Space(3) == Space(5, (1,))
    assert Space(2) - Space(0, (0, 4)) == Space(2, (0, -4))
    assert total([Space(1), Space(2, (3,)), Space(0, (0, 5))]) == Space(3, (3, 5))


def test_what_fits_fits_in_every_place() -> None:
    assert Space(2, (3,)).fits(Space(2, (3, 9)))
    assert not Space(2, (3,)).fits(Space(9, (2, 9)))
    assert not Space(0, (1,)).fits(Space(9))
    assert Space(7).fits(Space(float("inf")))


def test_nothing_is_missing_where_no_place_lacks_anything() -> None:
    assert Space(-1, (0,)).nothing
    assert not Space(-1, (1,)).nothing


def test_relief_counts_where_something_is_missing_only() -> None:
    missing = Space(-3, (4, 2))
    assert Space(100, (0, 0)).relief(missing) == 0.0
    assert Space(0, (4, 0)).relief(missing) == 1.0
    assert Space(0, (2, 1)).relief(missing) == 1.0
