"""Keys in SQL open with the installation's secret key, under the name that they were sealed for, and not otherwise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotas import sealing
from quotas.callers import CachePartition

KEY = bytes(range(32))


def test_what_was_sealed_opens() -> None:
    sealed = sealing.seal(KEY, name="a", secret_key="secret")
    assert len(sealed) == sealing.SEALED_BYTES
    assert sealing.unseal(sealed, name="a", secret_key="secret") == KEY


def test_a_sealed_key_shows_nothing_of_the_key_and_never_looks_the_same() -> None:
    first, second = (sealing.seal(KEY, name="a", secret_key="secret") for _ in range(2))
    assert first != second
    assert KEY not in first


@pytest.mark.parametrize(("name", "secret_key"), [("b", "secret"), ("a", "other")])
def test_it_opens_under_no_other_name_and_no_other_secret(name: str, secret_key: str) -> None:
    sealed = sealing.seal(KEY, name="a", secret_key="secret")
    with pytest.raises(sealing.NotOurs):
        sealing.unseal(sealed, name=name, secret_key=secret_key)


@given(st.integers(0, sealing.SEALED_BYTES - 1), st.integers(1, 255))
def test_a_damaged_one_does_not_open(place: int, flip: int) -> None:
    sealed = bytearray(sealing.seal(KEY, name="a", secret_key="secret"))
    sealed[place] ^= flip
    with pytest.raises(sealing.NotOurs):
        sealing.unseal(bytes(sealed), name="a", secret_key="secret")


@given(st.binary(max_size=100).filter(lambda data: len(data) != sealing.SEALED_BYTES))
def test_foreign_bytes_do_not_open(data: bytes) -> None:
    with pytest.raises(sealing.NotOurs):
        sealing.unseal(data, name="a", secret_key="secret")


def test_keys_are_random() -> None:
    assert len({sealing.key_make() for _ in range(100)}) == 100


def test_a_partition_that_is_logged_does_not_tell_its_key() -> None:
    shown = repr(CachePartition(name="f00", key=KEY))
    assert shown == "CachePartition(name='f00')"
