"""Capabilities that operators name, beyond what a GGUF says of itself."""

import re
from collections.abc import Sequence

from registry.errors import InvalidRequest

_CAPABILITY = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_MOST_CAPABILITIES = 32


def capabilities_checked(words: Sequence[str], *, param: str = "extra_capabilities") -> list[str]:
    """Lower-case words, each once, sorted. Raises InvalidRequest."""
    for word in words:
        if not isinstance(word, str) or not _CAPABILITY.fullmatch(word):
            raise InvalidRequest(
                f"'{word}' is not a capability: use lower-case letters, digits, _ . and -, as in arabic_nlp.",
                param=param,
            )
    if len(set(words)) > _MOST_CAPABILITIES:
        raise InvalidRequest(f"At most {_MOST_CAPABILITIES} capabilities are kept.", param=param)
    return sorted(set(words))
