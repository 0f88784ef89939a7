"""Why a file is not a GGUF that we can use.

GgufError
├── Incomplete    may become one yet: it is still being copied, or was truncated
├── Invalid       is not, and will not become one that llama.cpp loads
└── Unreadable    the operating system won't let us look
"""


class GgufError(Exception):
    """``str()`` is the reason, for an operator."""


class Incomplete(GgufError):
    pass


class Invalid(GgufError):
    pass


class Unreadable(GgufError):
    pass
