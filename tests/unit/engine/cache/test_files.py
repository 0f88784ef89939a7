"""What is read is what was written for this block with this key, or nothing."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engine.cache.files import OVERHEAD_BYTES, DamagedBlock, Format, Label, is_block_file
from inference.engine.cache.state import Bytes
from tests.kv_blocks import COMPATIBILITY, KEY, ROOT, block, label, name, payload

FORMAT = Format(COMPATIBILITY)
REGIONS = {
    "magic": 0,
    "format": 8,
    "tokens": 10,
    "payload size": 12,
    "compatibility": 20,
    "partition": 52,
    "name": 68,
    "parent": 100,
    "nonce": 132,
    "first byte of the payload": 144,
    "middle of the payload": 600,
    "last byte of the payload": 1143,
    "tag": 1144,
    "end of the tag": 1159,
}


def sealed(number: int = 1, content: Bytes | None = None, key: bytes = KEY, format: Format = FORMAT) -> bytearray:
    content = payload(number) if content is None else content
    file = bytearray(content.nbytes + OVERHEAD_BYTES)
    format.seal(label(number), content, key, memoryview(file))
    return file


def unseal(file: bytearray, number: int = 1, key: bytes = KEY, format: Format = FORMAT) -> Bytes:
    return format.unseal(label(number), memoryview(file), key)


@pytest.mark.parametrize("size", [0, 1, 1000, 100_003])
def test_a_payload_comes_back_byte_for_byte_and_read_only(size: int) -> None:
    content = payload(1, size)
    restored = unseal(sealed(content=content))
    assert np.array_equal(restored, content)
    assert not restored.flags.writeable


def test_the_payload_is_not_there_in_plain() -> None:
    content = np.frombuffer(b"a secret that repeats " * 50, np.uint8)
    assert b"secret" not in sealed(content=content)


@pytest.mark.parametrize("offset", REGIONS.values(), ids=REGIONS.keys())
@pytest.mark.parametrize("bit", [0, 7])
def test_a_flipped_bit_is_found_out_wherever_it_is(offset: int, bit: int) -> None:
    file = sealed()
    file[offset] ^= 1 << bit
    with pytest.raises(DamagedBlock):
        unseal(file)


@given(st.integers(0, len(sealed()) * 8 - 1))
def test_any_flipped_bit_is_found_out(place: int) -> None:
    file = sealed()
    file[place // 8] ^= 1 << place % 8
    with pytest.raises(DamagedBlock):
        unseal(file)


@pytest.mark.parametrize("length", [0, 1, *(offset for offset in REGIONS.values() if offset), 1159])
def test_a_truncated_file_is_found_out_wherever_it_ends(length: int) -> None:
    with pytest.raises(DamagedBlock):
        unseal(sealed()[:length])


@pytest.mark.parametrize("length", [0, 10, 131, 132, 144, 160, 500, 1159])
def test_a_file_of_which_only_the_beginning_reached_the_disk_is_found_out(length: int) -> None:
    """As a power cut leaves it: the size is right, the rest reads as zeros."""
    file = sealed()
    file[length:] = bytes(len(file) - length)
    with pytest.raises(DamagedBlock):
        unseal(file)


def test_appended_bytes_are_found_out() -> None:
    with pytest.raises(DamagedBlock):
        unseal(sealed() + b"\0")


@pytest.mark.parametrize("content", [b"", b"GGUF" * 400, bytes(2000), os.urandom(2000)])
def test_a_foreign_file_is_found_out(content: bytes) -> None:
    with pytest.raises(DamagedBlock):
        unseal(bytearray(content))


def test_another_blocks_file_is_found_out() -> None:
    with pytest.raises(DamagedBlock, match="header"):
        unseal(sealed(2), number=1)


def test_another_blocks_file_with_a_header_that_fits_is_found_out() -> None:
    forged = sealed(1)[:132] + sealed(2)[132:]
    with pytest.raises(DamagedBlock, match="tag"):
        unseal(forged, number=1)


def test_another_key_reads_nothing() -> None:
    with pytest.raises(DamagedBlock, match="key"):
        unseal(sealed(), key=bytes(32))


def test_another_compatibility_key_reads_nothing() -> None:
    with pytest.raises(DamagedBlock):
        unseal(sealed(), format=Format(b"another build"))


def test_the_same_block_is_never_encrypted_alike() -> None:
    nonces = {bytes(sealed()[132:144]) for _ in range(100)}
    assert len(nonces) == 100


@pytest.mark.parametrize("given", [label(1), label(2, parent=name(1)), label(3, parent=name(1), tokens=1)])
def test_a_files_name_says_what_its_block_is(given: Label) -> None:
    file_name = FORMAT.file_name(given)
    assert is_block_file(file_name)
    assert FORMAT.parse(file_name) == given
    assert len(file_name) < 255


def test_files_of_another_compatibility_key_are_known_but_not_ours() -> None:
    file_name = Format(b"another build").file_name(label(1))
    assert is_block_file(file_name)
    assert FORMAT.parse(file_name) is None


@pytest.mark.parametrize("tokens", [0, 65, 99])
def test_a_block_of_an_impossible_size_is_not_ours(tokens: int) -> None:
    assert FORMAT.parse(FORMAT.file_name(Label(block(1, tokens=tokens), "0" * 16))) is None


@pytest.mark.parametrize(
    "file_name",
    [
        "ledger",
        "writing.tmp",
        "notes.kv",
        FORMAT.file_name(label(1)) + ".tmp",
        FORMAT.file_name(label(1)).upper(),
        FORMAT.file_name(label(1)) + "\n",
        f"../{FORMAT.file_name(label(1))}",
        FORMAT.file_name(label(1)).replace(ROOT.hex(), ROOT.hex()[1:]),
    ],
)
def test_other_names_are_foreign(file_name: str) -> None:
    assert not is_block_file(file_name)
    assert FORMAT.parse(file_name) is None
