"""Keys of tenants as SQL holds them: sealed, so that a dump of the database alone opens no cache on disk. Pure.

AES-256-GCM with a key derived by HKDF-SHA256 (RFC 5869) from the installation's secret key, which lies in the data
directory or comes from the environment, never in SQL. A sealed key is ``nonce (12 bytes) + ciphertext (32) + tag (16)``
and opens only under the name it was sealed for, so that keys can't be swapped between rows.
"""

import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
_NONCE_BYTES = 12
_TAG_BYTES = 16
SEALED_BYTES = _NONCE_BYTES + KEY_BYTES + _TAG_BYTES

_PURPOSE = b"nopenai: seal cache keys, version 1"


class NotOurs(Exception):
    """It was sealed under another secret key or for another name, or it is damaged."""


def key_make() -> bytes:
    """A new random key."""
    return os.urandom(KEY_BYTES)


def seal(key: bytes, *, name: str, secret_key: str) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher(secret_key).encrypt(nonce, key, name.encode())


def unseal(sealed: bytes, *, name: str, secret_key: str) -> bytes:
    """Raises NotOurs."""
    if len(sealed) != SEALED_BYTES:
        raise NotOurs
    try:
        return _cipher(secret_key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
    except InvalidTag as fault:
        raise NotOurs from fault


@lru_cache(maxsize=1)
def _cipher(secret_key: str) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret_key.encode()))
