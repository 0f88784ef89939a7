"""What a gateway must know of a backend. No Django here."""

import msgspec


class Backend(msgspec.Struct, frozen=True, kw_only=True):
    """A model behind an OpenAI-compatible URL."""

    version_pk: int
    """Of the version that it is."""
    url: str
    """What its paths follow: ``https://api.example.com/v1``."""
    model: str
    """How it is called there."""
    api_key: str = ""
    """Empty: it takes requests without one."""
    fault: str = ""
    """Why it can't be asked, in words for an operator; empty: it can."""

    def __repr__(self) -> str:
        """Without its key: tracebacks are logged with what they hold."""
        return f"Backend(version_pk={self.version_pk}, url={self.url!r}, model={self.model!r})"
