"""Who calls: secrets, digests, roles and expiry, without a database."""

import hashlib
import re

import pytest

from quotas import callers
from quotas.callers import Caller, Role


def caller(*, expires_at: float | None) -> Caller:
    return Caller(key_pk=1, tenant="default", role=Role.INFERENCE, prefix="nok_abcdefgh", expires_at=expires_at)


def test_a_secret_carries_its_prefix_and_256_bits() -> None:
    assert re.fullmatch(r"nok_[A-Za-z0-9_-]{43}", callers.secret_make())


def test_no_two_secrets_are_alike() -> None:
    assert len({callers.secret_make() for _ in range(100)}) == 100


def test_the_digest_is_the_sha256_of_the_secret() -> None:
    assert callers.digest("nok_x") == hashlib.sha256(b"nok_x").hexdigest()


def test_what_is_shown_of_a_key_leaves_210_bits_secret() -> None:
    assert len(callers.prefix("nok_" + "x" * 43)) == 12


def test_a_secret_that_is_not_ascii_is_hashed_and_not_an_error() -> None:
    assert len(callers.digest("nok_ключ")) == 64


@pytest.mark.parametrize(
    ("has", "needed", "may"),
    [
        (Role.INFERENCE, Role.INFERENCE, True),
        (Role.INFERENCE, Role.OPERATOR, False),
        (Role.INFERENCE, Role.ADMIN, False),
        (Role.OPERATOR, Role.INFERENCE, True),
        (Role.OPERATOR, Role.OPERATOR, True),
        (Role.OPERATOR, Role.ADMIN, False),
        (Role.ADMIN, Role.INFERENCE, True),
        (Role.ADMIN, Role.OPERATOR, True),
        (Role.ADMIN, Role.ADMIN, True),
    ],
)
def test_a_role_includes_those_before_it(has: Role, needed: Role, may: bool) -> None:
    assert has.includes(needed) is may


def test_a_key_expires_at_its_moment_and_not_before() -> None:
    assert not caller(expires_at=100.0).expired(99.9)
    assert caller(expires_at=100.0).expired(100.0)


def test_a_key_without_an_expiry_never_expires() -> None:
    assert not caller(expires_at=None).expired(1e12)
