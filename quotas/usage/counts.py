"""What is counted of requests, by whom and when. Pure."""

import msgspec


class UsageKey(msgspec.Struct, frozen=True, kw_only=True):
    """Whose usage it is, and of what."""

    hour: int
    """When the hour began in which the request was admitted: seconds since the epoch."""
    key_pk: int | None
    """None: it came without a key."""
    tenant: str
    model: str


class UsageCounts(msgspec.Struct, kw_only=True):
    """May be added to."""

    requests: int = 0
    """That were admitted and are over, however they ended."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompts: not computed, since their KV was cached."""
    completion_tokens: int = 0
    seconds: float = 0.0
    """From the admission of each to its end."""
    errors: int = 0
    """Of the requests: failed for a reason of the server's."""
    refused: int = 0
    """Beside the requests: those that a limit did not let in."""

    def add(self, other: "UsageCounts") -> None:
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.cached_tokens += other.cached_tokens
        self.completion_tokens += other.completion_tokens
        self.seconds += other.seconds
        self.errors += other.errors
        self.refused += other.refused


COUNTED = UsageCounts.__struct_fields__
"""The names of what is counted, in SQL, too."""
