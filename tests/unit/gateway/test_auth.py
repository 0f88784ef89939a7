"""API key → caller."""

import pytest

from inference.gateway.auth import authenticate, bearer, refuse_key_in_url
from quotas.callers import Caller, Role, digest
from registry.errors import InvalidRequest, Unauthorized

KEY = "nok_" + "a" * 43
ADA = Caller(key_pk=1, tenant="ada", role=Role.INFERENCE, prefix="nok_aaaaaaaa", expires_at=None)
CALLERS = {digest(KEY): ADA, digest("old"): Caller(key_pk=2, tenant="ada", role=Role.ADMIN, prefix="old", expires_at=9)}


def caller(authorization: bytes | None, *, required: bool) -> Caller | None:
    headers = {} if authorization is None else {b"authorization": authorization}
    return authenticate(headers, CALLERS, required=required, now=10.0)


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_a_known_key_is_its_caller(scheme: bytes) -> None:
    assert caller(scheme + b" " + KEY.encode(), required=True) is ADA


@pytest.mark.parametrize(
    ("authorization", "words"),
    [
        (None, "takes an API key"),
        (b"", "takes an API key"),
        (b"Bearer", "takes an API key"),
        (b"Bearer  ", "takes an API key"),
        (b"Basic YTpi", "takes an API key"),
        (b"Bearer nok_wrong", "not known"),
        (b"Bearer \xff\xfe", "not known"),
        (b"Bearer old", "begins with old has expired"),
    ],
)
def test_without_a_valid_key_there_is_no_answer_where_keys_are_required(
    authorization: bytes | None, words: str
) -> None:
    with pytest.raises(Unauthorized, match=words) as caught:
        caller(authorization, required=True)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert "wrong" not in caught.value.message


@pytest.mark.parametrize("authorization", [None, b"Bearer sk-anything", b"Bearer old"])
def test_anything_passes_where_keys_are_not_required(authorization: bytes | None) -> None:
    assert caller(authorization, required=False) is None


def test_a_known_key_is_known_where_none_is_required_too() -> None:
    assert caller(b"Bearer " + KEY.encode(), required=False) is ADA


def test_white_space_around_the_token_is_no_part_of_it() -> None:
    assert bearer({b"authorization": b"Bearer   x "}) == "x"


@pytest.mark.parametrize("start", [b"nok_", b"nok%5F", b"%6eok_"])
def test_a_key_in_a_url_is_found_however_it_is_written(start: bytes) -> None:
    with pytest.raises(InvalidRequest, match="rotate this key") as refused:
        refuse_key_in_url("/v1/models", b"k=" + start + b"a1B2" * 11)
    assert refused.value.code == "key_in_url"
    refuse_key_in_url("/v1/models", b"k=" + start)
