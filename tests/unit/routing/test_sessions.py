"""Whose a session is."""

from collections import Counter

from routing.sessions import MOST_PINS, Pins, rendezvous, word
from tests.unit.routing.chance import chi_square_fits

MODELS = [f"m{number}" for number in range(5)]


def homes(models: list[str], sessions: int = 10_000) -> list[str]:
    words = [word(model) for model in models]
    return [models[rendezvous(word(f"session {number}"), words)] for number in range(sessions)]


def test_sessions_are_spread_evenly() -> None:
    assert chi_square_fits(Counter(homes(MODELS)), dict.fromkeys(MODELS, 0.2))


def test_when_a_model_goes_only_its_own_sessions_move() -> None:
    before, after = homes(MODELS), homes(MODELS[:-1])
    assert all(old == new for old, new in zip(before, after, strict=True) if old != "m4")


def test_when_a_model_comes_it_takes_its_share_and_no_other_session_moves() -> None:
    before, after = homes(MODELS), homes([*MODELS, "new"])
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {"new"} and 1500 < len(moved) < 1850


def test_a_pin_is_forgotten_when_its_session_was_silent_too_long() -> None:
    pins = Pins()
    pins.put("s", "m1", now=100.0)
    pin = pins.find("s", since=90.0)
    assert pin is not None and pin.model == "m1"
    pins.used("s", pin, now=200.0)
    assert pins.find("s", since=150.0) is pin
    assert pins.find("s", since=201.0) is None


def test_of_too_many_sessions_those_are_forgotten_that_were_silent_longest() -> None:
    pins = Pins()
    for number in range(MOST_PINS + 10):
        pins.put(f"s{number}", "m", now=float(number))
    assert len(pins) == MOST_PINS and pins.find("s9", 0.0) is None and pins.find("s10", 0.0) is not None


def test_only_sessions_that_are_not_where_others_would_look_for_them_are_strays() -> None:
    pins = Pins()
    for number in range(200):
        session = f"session {number}"
        pins.put(session, homes(MODELS, 200)[number], now=float(number))
    assert not list(pins.strays(MODELS, since=0.0))
    strays = dict(pins.strays([*MODELS, "new"], since=100.0))
    new = {f"session {number}" for number, home in enumerate(homes([*MODELS, "new"], 200)) if home == "new"}
    assert strays.keys() == {session for session in new if int(session.split()[1]) >= 100} and strays


def test_a_gateway_adopts_what_another_says_of_a_session_that_it_does_not_know_better() -> None:
    pins = Pins()
    pins.put("known", "m1", now=100.0)
    for session in ("known", "unknown"):
        pins.adopt(session, "m2", used_at=90.0, since=50.0)
    found = {session: pin.model for session in ("known", "unknown") if (pin := pins.find(session, 50.0))}
    assert found == {"known": "m1", "unknown": "m2"}
