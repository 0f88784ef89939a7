"""API key → caller."""

import pytest

from inference.gateway.auth import authenticate, bearer, refuse_key_in_url
from quotas.callers import Caller, Role, digest
from registry.errors import Forbidden, InvalidRequest, Unauthorized

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


def let_in(**headers: str) -> bool:
    given = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    try:
        authenticate(given, {}, required=False, now=0.0)
    except Forbidden:
        return False
    return True


def test_clients_that_are_no_browsers_are() -> None:
    assert let_in(host="localhost:8080")
    assert let_in(host="localhost:8080", authorization="Bearer anything")


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:8080", "[::1]:8080", "127.0.0.5"])
def test_our_own_pages_are(host: str) -> None:
    assert let_in(host=host, origin=f"http://{host}")


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:3000", "null", "", "http://[", "http://localhost:8080.evil"]
)
def test_pages_of_others_are_not_whatever_key_they_make_up(origin: str) -> None:
    assert not let_in(host="localhost:8080", origin=origin)
    assert not let_in(host="localhost:8080", origin=origin, authorization="Bearer anything")


@pytest.mark.parametrize("host", ["evil.example:8080", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io", "é"])
def test_a_page_that_points_its_own_name_here_is_not(host: str) -> None:
    assert not let_in(host=host, origin=f"http://{host}")
    assert not let_in(host=host), "browsers send no origin with what a page gets of its own server"
