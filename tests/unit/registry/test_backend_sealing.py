"""API keys of backends, sealed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.backends.sealing import NotOurs, seal, unseal
from registry.backends.values import Backend

URL = "https://api.example.com/v1"


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=200))
def test_what_was_sealed_opens_again_and_is_not_to_be_read_before(key: str) -> None:
    sealed = seal(key, url=URL, secret_key="s")
    assert len(key) < 4 or key.encode() not in sealed
    assert unseal(sealed, url=URL, secret_key="s") == key


def test_no_key_is_nothing() -> None:
    assert seal("", url=URL, secret_key="s") == b""
    assert unseal(b"", url=URL, secret_key="s") == ""


def test_the_same_key_is_sealed_differently_each_time() -> None:
    assert seal("sk", url=URL, secret_key="s") != seal("sk", url=URL, secret_key="s")


@pytest.mark.parametrize(
    ("url", "secret_key"),
    [("https://evil.example/v1", "s"), (URL, "other")],
    ids=["another url", "another installation"],
)
def test_it_opens_nowhere_else(url: str, secret_key: str) -> None:
    sealed = seal("sk", url=URL, secret_key="s")
    with pytest.raises(NotOurs):
        unseal(sealed, url=url, secret_key=secret_key)


@pytest.mark.parametrize("cut", range(1, 30))
def test_what_is_damaged_is_told(cut: int) -> None:
    sealed = seal("sk", url=URL, secret_key="s")
    with pytest.raises(NotOurs):
        unseal(sealed[:-cut] or b"x", url=URL, secret_key="s")


def test_a_backend_does_not_show_its_key() -> None:
    assert "sk-1" not in repr(Backend(version_pk=1, url=URL, model="m", api_key="sk-1"))
