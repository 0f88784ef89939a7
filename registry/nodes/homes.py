"""Where a model lives among nodes: always on the same ones, whoever asks, for its weights may be in the page cache
there and its KV on the disk. Pure.

Rendezvous hashing (Thaler, Ravishankar: "Using name-based mappings to increase hit rates", 1998): when a node comes or
goes, only the models that move to or from it move.
"""

from collections.abc import Iterable
from hashlib import blake2b


def rank(node: str, model: str) -> bytes:
    """Of a node, for a model: the node with the lowest one is the model's home, the next its second home."""
    return blake2b(model.encode(), key=blake2b(node.encode(), digest_size=16).digest(), digest_size=8).digest()


def homes(model: str, nodes: Iterable[str], wanted: int) -> list[str]:
    """The nodes on which a model should be, if it should be on so many."""
    return sorted(nodes, key=lambda node: rank(node, model))[:wanted]
