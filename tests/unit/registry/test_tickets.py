"""Tickets of signed-in operators."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas.callers import secret_within, secrets_cut
from registry.tickets import TICKET_PREFIX, TICKET_SECONDS, ticket_holder, ticket_make

KEY = b"the installation's"


def test_a_ticket_tells_whose_it_is_until_it_is_over() -> None:
    ticket = ticket_make("Zoë", KEY, now=1000.0)
    assert ticket_holder(ticket, KEY, 1000.0) == "Zoë"
    assert ticket_holder(ticket, KEY, 999.9 + TICKET_SECONDS) == "Zoë"
    assert ticket_holder(ticket, KEY, 1000.0 + TICKET_SECONDS) is None


def test_another_installations_ticket_is_none_here() -> None:
    assert ticket_holder(ticket_make("root", KEY, now=1000.0), b"another one's", 1000.0) is None


@given(st.integers(min_value=0), st.characters())
def test_a_ticket_that_was_changed_names_nobody_else(place: int, character: str) -> None:
    ticket = ticket_make("root", KEY, now=1000.0)
    place = len(TICKET_PREFIX) + place % (len(ticket) - len(TICKET_PREFIX))
    changed = ticket[:place] + character + ticket[place + 1 :]
    assert ticket_holder(changed, KEY, 1000.0) in (None, "root")


def test_a_signature_is_good_for_its_own_content_only() -> None:
    one, other = (ticket_make(name, KEY, now=1000.0) for name in ("root", "mike"))
    end = len(TICKET_PREFIX) + 43
    assert ticket_holder(one[:end] + other[end:], KEY, 1000.0) is None


@pytest.mark.parametrize("text", ["", "x", TICKET_PREFIX, TICKET_PREFIX + "a" * 43, TICKET_PREFIX + "é" * 60])
def test_what_is_no_ticket_is_none(text: str) -> None:
    assert ticket_holder(text, KEY, 1000.0) is None


def test_logs_and_urls_treat_it_as_a_key() -> None:
    ticket = ticket_make("root", KEY, now=1000.0)
    assert ticket not in secrets_cut(f"with {ticket}")
    assert secret_within(f"/metrics?key={ticket}")
