"""Which addresses a backend may have."""

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.backends.addresses import AddressRefused, Policy

INTERNET = Policy()
HOME = Policy([ip_network("10.0.0.0/8"), ip_network("fd00::/8"), ip_network("127.0.0.1/32")])

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.3.4", "192.168.1.1", "100.64.0.1", "169.254.169.254",
    "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fe80::1", "fe80::1%eth0", "fd00::1", "fc00::1", "ff02::1", "2001:db8::1",
]  # fmt: skip
DISGUISED = [
    "::ffff:127.0.0.1",
    "::ffff:10.1.2.3",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",
    "2002:a00:1::",
]


@pytest.mark.parametrize("address", PRIVATE + DISGUISED)
@pytest.mark.parametrize("encrypted", [True, False])
def test_private_addresses_are_refused_however_they_are_written(address: str, encrypted: bool) -> None:
    assert "private" in INTERNET.why_not(address, encrypted=encrypted)


@pytest.mark.parametrize("address", ["1.1.1.1", "8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_the_internet_is_allowed_by_tls_only(address: str) -> None:
    assert INTERNET.why_not(address, encrypted=True) == ""
    assert "https" in INTERNET.why_not(address, encrypted=False)


@pytest.mark.parametrize("address", ["10.2.3.4", "fd12::1", "127.0.0.1", "::ffff:10.0.0.9"])
def test_a_network_that_the_setting_names_is_allowed_with_and_without_tls(address: str) -> None:
    assert HOME.why_not(address, encrypted=False) == ""
    assert HOME.why_not(address, encrypted=True) == ""


@pytest.mark.parametrize(
    "address", ["127.0.0.2", "192.168.0.1", "169.254.169.254", "::1", "localhost", "10.1", "0x7f000001"]
)
def test_what_it_does_not_name_stays_refused(address: str) -> None:
    assert HOME.why_not(address, encrypted=True)


def test_of_a_name_with_good_and_bad_addresses_none_is_trusted() -> None:
    INTERNET.require(["8.8.8.8", "1.1.1.1"], encrypted=True)
    with pytest.raises(AddressRefused, match=r"127\.0\.0\.1"):
        INTERNET.require(["8.8.8.8", "127.0.0.1"], encrypted=True)


@given(st.ip_addresses(v=4, network="127.0.0.0/8") | st.ip_addresses(v=4, network="169.254.0.0/16"))
def test_none_of_loopback_and_link_local_passes(address: object) -> None:
    assert INTERNET.why_not(str(address), encrypted=True)


@given(st.text(max_size=60))
def test_no_text_breaks_it(text: str) -> None:
    assert INTERNET.why_not(text, encrypted=True) or text
    INTERNET.why_not_url(text)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("https://api.example.com/v1", ""),
        ("http://vllm:8000/v1", ""),
        ("https://[2606:4700:4700::1111]:443/v1", ""),
        ("http://10.0.0.7:8000", ""),
        ("ftp://x/v1", "begin with"),
        ("//x/v1", "begin with"),
        ("api.example.com", "begin with"),
        ("https://", "begin with"),
        ("https://u:p@x/v1", "api_key"),
        ("https://x/v1?key=1", "query"),
        ("https://x/v1?", "query"),
        ("https://x/v1#a", "query"),
        ("https://x/v 1", "white space"),
        ("https://x/v1\n", "white space"),
        ("https://x:99999/v1", "no URL"),
        ("https://[::1/v1", "no URL"),
        ("http://127.0.0.2/v1", "private"),
        ("http://8.8.8.8/v1", "https"),
        ("https://[fe80::1%25eth0]/v1", "private"),
    ],
)
def test_a_url_is_refused_with_what_to_do(url: str, why: str) -> None:
    told = HOME.why_not_url(url)
    assert why in told
    assert bool(why) == bool(told)
