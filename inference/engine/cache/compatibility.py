"""What KV must have in common to be exchanged: the model's content, the build that computed it, its layout."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from inference.engine.cache.names import BLOCK_TOKENS
from inference.engine.cache.state import Layout

_FORMAT = b"nopenai kv 1"
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024


def compatibility(files: Sequence[str], build: str, layout: Layout) -> bytes:
    """32 bytes that differ whenever KV of one could be wrong for the other.

    Args:
        files: the GGUF, its shards in order.
        build: llama.cpp's version and the CPU's features that it uses: another build rounds differently.
    """
    digest = hashlib.blake2b(digest_size=32)
    fields = repr([(cache.transposed, cache.fields) for cache in layout.caches])
    if layout.checkpoint_bytes:
        fields += f" {layout.checkpoint_bytes}"
    for part in (_FORMAT, str(BLOCK_TOKENS).encode(), build.encode(), fields.encode()):
        digest.update(hashlib.blake2b(part).digest())
    for file in files:
        _add_content(digest, Path(file))
    return digest.digest()


def _add_content(digest: "hashlib.blake2b", file: Path) -> None:
    """A file's size, time of change, and 64 samples of it: some milliseconds, where all of it could take a minute.

    Weights that were trained or quantized differently differ everywhere; an edit of a few bytes shows in the time.
    """
    status = file.stat()
    digest.update(f"{status.st_size} {status.st_mtime_ns}".encode())
    with file.open("rb", buffering=0) as stream:
        for sample in range(_SAMPLES):
            stream.seek(max(0, status.st_size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE_BYTES))
