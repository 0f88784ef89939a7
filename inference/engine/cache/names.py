"""Names of KV blocks: a hash chained over everything that the block's KV depends on.

The KV of a token depends on the model's weights and build, and on every token before it. So a block is named by a hash
over its parent's name and its own tokens, beginning at a *root* that stands for the compatibility key and the
partition: equal names mean equal KV, and nobody outside a partition can produce a name within it (the root is keyed
with the partition's secret). Cf. vLLM's automatic prefix caching, which chains block hashes in the same way.
"""

import hashlib
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from inference.protocol import Partition

BLOCK_TOKENS = 64
"""State calls of llama.cpp cost O(context): blocks of 16 tokens were 3–7 times as dear; 256 leave long tails."""

NAME_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockId:
    name: bytes
    parent: bytes
    """The block before it, or the root."""
    tokens: int
    """64, or fewer: a tail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Whose block it is: one partition, narrowed by the salt."""

    root: bytes
    label: str
    """The partition's name, for the disk."""
    key: bytes
    """Encrypts it there."""


class Chain:
    """The names of the blocks of one sequence, which may grow."""

    def __init__(self, owner: Owner, shared: Owner | None = None, shared_tokens: int = 0) -> None:
        """Blocks wholly within the first ``shared_tokens`` tokens belong to ``shared``, all others to ``owner``."""
        self._owner = owner
        self._shared = shared
        self._shared_blocks = shared_tokens // BLOCK_TOKENS if shared is not None else 0
        self._names: list[bytes] = []

    def owner(self, index: int) -> Owner:
        """Whose the ``index``-th block is."""
        return self._shared if self._shared is not None and self.shares(index) else self._owner

    def parent(self, index: int, tokens: Sequence[int]) -> bytes:
        """The name of the block before the ``index``-th one, or the root."""
        return self.block(index - 1, tokens).name if index else self.owner(0).root

    def block(self, index: int, tokens: Sequence[int]) -> BlockId:
        """The ``index``-th whole block of the sequence ``tokens``, of which no token so far may ever change."""
        while len(self._names) <= index:
            at = len(self._names)
            parent = self._names[-1] if at else self.owner(0).root
            self._names.append(self._name(at, parent, tokens[at * BLOCK_TOKENS : (at + 1) * BLOCK_TOKENS]))
        parent = self._names[index - 1] if index else self.owner(0).root
        return BlockId(name=self._names[index], parent=parent, tokens=BLOCK_TOKENS)

    def tail(self, index: int, tokens: Sequence[int], count: int) -> BlockId:
        """The first ``count`` tokens, fewer than a whole block's, of the ``index``-th block."""
        parent, start = self.parent(index, tokens), index * BLOCK_TOKENS
        return BlockId(name=self._name(index, parent, tokens[start : start + count]), parent=parent, tokens=count)

    def checkpoint(self, count: int, tokens: Sequence[int]) -> BlockId:
        """What recurrent layers remember of the first ``count`` tokens: named after the block or tail that ends there,
        in a family of its own, so that neither is ever taken for the other."""
        index, last = divmod(count - 1, BLOCK_TOKENS)
        whole = last + 1 == BLOCK_TOKENS
        id = self.block(index, tokens) if whole else self.tail(index, tokens, last + 1)
        return BlockId(name=_beside(id.name), parent=_beside(id.parent), tokens=id.tokens)

    def checkpoint_parent(self, index: int, tokens: Sequence[int]) -> bytes:
        """What all checkpoints within the ``index``-th block have as their parent."""
        return _beside(self.parent(index, tokens))

    def shares(self, index: int) -> bool:
        """Whether the ``index``-th block is everybody's."""
        return index < self._shared_blocks

    def _name(self, index: int, parent: bytes, tokens: Sequence[int]) -> bytes:
        owner = self.owner(index)
        return hashlib.blake2b(parent + owner.root + array("i", tokens).tobytes(), digest_size=NAME_BYTES).digest()


def owners(partition: Partition, compatibility: bytes) -> tuple[Owner, Owner | None]:
    """Whose the private and the shared blocks of a request are. The salt narrows the private ones only: what an
    operator declared shareable is no secret of anybody's."""
    private = Owner(
        root=_root(compatibility, partition.name, partition.key, partition.salt),
        label=partition.name,
        key=partition.key,
    )
    if not partition.shared_name or not partition.shareable_messages:
        return private, None
    shared = Owner(
        root=_root(compatibility, partition.shared_name, partition.shared_key, ""),
        label=partition.shared_name,
        key=partition.shared_key,
    )
    return private, shared


def _beside(name: bytes) -> bytes:
    return hashlib.blake2b(name, digest_size=NAME_BYTES, person=b"checkpoint").digest()


def _root(compatibility: bytes, name: str, key: bytes, salt: str) -> bytes:
    parts = (compatibility, name.encode(), salt.encode("utf-8", "replace"))
    framed = b"".join(struct.pack("<I", len(part)) + part for part in parts)
    return hashlib.blake2b(framed, digest_size=NAME_BYTES, key=key).digest()
