"""API keys of backends as SQL holds them: sealed, so that a dump of the database alone gives nobody away. Pure.

AES-256-GCM as in :mod:`quotas.sealing`, under a key derived for this purpose alone from the installation's secret key.
A sealed key opens only for the URL that it was sealed for: who can write to SQL, and no more, can't have it sent
elsewhere.
"""

import os
from functools import lru_cache

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12
_PURPOSE = b"nopenai: seal API keys of backends, version 1"


class NotOurs(Exception):
    """It was sealed under another secret key or for another URL, or it is damaged."""


def seal(api_key: str, *, url: str, secret_key: str) -> bytes:
    """``nonce (12 bytes) + ciphertext + tag (16)``; nothing for no key."""
    if not api_key:
        return b""
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + _cipher(secret_key).encrypt(nonce, api_key.encode(), url.encode())


def unseal(sealed: bytes, *, url: str, secret_key: str) -> str:
    """Raises NotOurs."""
    if not sealed:
        return ""
    try:
        return _cipher(secret_key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], url.encode()).decode()
    except (InvalidTag, ValueError) as fault:
        raise NotOurs from fault


@lru_cache(maxsize=1)
def _cipher(secret_key: str) -> AESGCM:
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(secret_key.encode()))
