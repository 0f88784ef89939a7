"""Where a node's door is, as operators write it."""

import pytest

from registry.nodes.doors import Address, address


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("10.0.0.5:8090", Address("10.0.0.5", 8090)),
        ("node-1.example:1", Address("node-1.example", 1)),
        ("[fd00::1]:8090", Address("fd00::1", 8090)),
    ],
)
def test_an_address_is_read_and_written_alike(text: str, parsed: Address) -> None:
    assert address(text) == parsed
    assert str(parsed) == text


@pytest.mark.parametrize(
    "text",
    ["10.0.0.5", ":8090", "host:", "host:0x1", "host:99999", "http://host:1", "me@host:1", "host:1/path", "a b:"],
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"host:port.*10\.0\.0\.5:8090"):
        address(text)
