"""The file of one block on SSD: what its name says, how it is laid out, encrypted and authenticated.

A file is called ``<compatibility>.<partition>.<name>.<parent>.<tokens>.kv``, all but the token count in hexadecimal
(the first two are digests, cut to 64 bits). So the directory alone says all that the index needs: a scan reads no file.

Inside::

    header (132 bytes, plain)  magic, format, tokens, payload bytes, compatibility, partition, name, parent
    nonce (12)
    the payload, encrypted
    tag (16)

AES-256-GCM authenticates the header as associated data with the payload, and :meth:`Format.unseal` compares the header
with what the file's name promises. So a flipped bit, a truncation, a write that a power cut tore, or another block's
file under this name is always found out, and never served.

Keys and nonces: GCM breaks if a nonce repeats under one key. Nonces are random; each block has its own key, derived
from its partition's, so a key sees no more than the few times that this one block was written, where 96 random bits
don't meet again (NIST SP 800-38D allows 2^32 times). A nonce made from the name would not do: a block that is computed
anew under other batch shapes differs in its last bits.

Measured (2 cores with VAES, payloads of 1.5 MB): 0.10 ms to encrypt or decrypt into a buffer of ours (15 GB/s), 0.17 ms
where the library allocates the result. The library releases the interpreter lock meanwhile (since version 50: worst gap
of a busy second thread 8 ms beside 256 MiB, the same as beside hashlib), so the engine's thread goes on.
"""

import hashlib
import hmac
import os
import re
import struct
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from inference.engine.cache.names import BLOCK_TOKENS, BlockId
from inference.engine.cache.state import Bytes

_FORMAT = 1
_MAGIC = b"nOpenKV\n"
_HEADER = struct.Struct(">8sHHQ32s16s32s32s")
_NONCE_BYTES = 12
_TAG_BYTES = 16
OVERHEAD_BYTES = _HEADER.size + _NONCE_BYTES + _TAG_BYTES
"""How much larger a file is than its payload."""
LARGEST_FILE_BYTES = 1 << 30
"""Far above any block (of a 405B model in 32 bits: 66 MB). What claims to be larger is damaged; to read it all only to
find that out could take all of the memory."""

_DIGEST_HEX = 16
_NAME = re.compile(r"([0-9a-f]{16})\.([0-9a-f]{16})\.([0-9a-f]{64})\.([0-9a-f]{64})\.([0-9]{1,2})\.kv")


class DamagedBlock(Exception):
    """The file is not, byte for byte, what was written for this block with this key."""


@dataclass(frozen=True, slots=True)
class Label:
    """What the name of a file says."""

    block: BlockId
    partition: str
    """Digest of the partition's name, in hexadecimal: an operator can find a tenant's files, others learn no name."""


def is_block_file(file_name: str) -> bool:
    """A block's file, of whatever compatibility key. All other names are foreign, and none of our business.

    A change of this scheme must go on to know the old one: files that nobody knows would stay for ever.
    """
    return _NAME.fullmatch(file_name) is not None


def partition_digest(partition: str) -> str:
    return hashlib.sha256(partition.encode("utf-8", "surrogateescape")).hexdigest()[:_DIGEST_HEX]


class Format:
    """Files under one compatibility key (model content, llama.cpp build and CPU features, KV types, block size)."""

    def __init__(self, compatibility: bytes) -> None:
        self._compatibility = hashlib.sha256(b"%d " % _FORMAT + compatibility).digest()
        self._prefix = self._compatibility.hex()[:_DIGEST_HEX]

    def file_name(self, label: Label) -> str:
        block = label.block
        return f"{self._prefix}.{label.partition}.{block.name.hex()}.{block.parent.hex()}.{block.tokens}.kv"

    def parse(self, file_name: str) -> Label | None:
        """None: no file that was written under this compatibility key."""
        match = _NAME.fullmatch(file_name)
        if match is None or match[1] != self._prefix or not 1 <= int(match[5]) <= BLOCK_TOKENS:
            return None
        block = BlockId(name=bytes.fromhex(match[3]), parent=bytes.fromhex(match[4]), tokens=int(match[5]))
        return Label(block, match[2])

    def seal(self, label: Label, payload: Bytes, key: bytes, file: memoryview) -> None:
        """Fill ``file``, of the payload's size + :data:`OVERHEAD_BYTES`."""
        header = self._header(label, payload.nbytes)
        nonce = os.urandom(_NONCE_BYTES)
        start = len(header) + len(nonce)
        file[:start] = header + nonce
        _cipher(key, label.block.name).encrypt_into(nonce, payload.data, header, file[start:])

    def unseal(self, label: Label, file: memoryview, key: bytes) -> Bytes:
        """The payload, read-only.

        Raises:
            DamagedBlock
        """
        payload_bytes = len(file) - OVERHEAD_BYTES
        header = self._header(label, max(payload_bytes, 0))
        if payload_bytes < 0 or file[: len(header)] != header:
            raise DamagedBlock("its header is not the one that its name promises")
        start = len(header) + _NONCE_BYTES
        payload = np.empty(payload_bytes, np.uint8)
        try:
            _cipher(key, label.block.name).decrypt_into(
                bytes(file[len(header) : start]), file[start:], header, payload.data
            )
        except InvalidTag:
            raise DamagedBlock("its content does not match its authentication tag under this key") from None
        payload.flags.writeable = False
        return payload

    def _header(self, label: Label, payload_bytes: int) -> bytes:
        block = label.block
        return _HEADER.pack(
            _MAGIC,
            _FORMAT,
            block.tokens,
            payload_bytes,
            self._compatibility,
            label.partition.encode(),
            block.name,
            block.parent,
        )


def _cipher(key: bytes, name: bytes) -> AESGCM:
    return AESGCM(hmac.digest(key, b"nopenai kv block " + name, "sha256"))
