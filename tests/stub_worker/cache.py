"""The prompts that the stub has seen."""

from inference.protocol import (
    CacheBudget,
    CacheReport,
    Generate,
    TierReport,
)

BYTES_PER_TOKEN = 1024


class Cache:
    """Whole prompts by their partition, salt and text; the least recently used goes first."""

    def __init__(self) -> None:
        self._tokens: dict[tuple[str, str, str], int] = {}
        self._budget = CacheBudget(ram_bytes=0, ssd_bytes=0)
        self._evicted = self._prompt_tokens = self._cached_tokens = self._lookups = self._hits = 0
        self.prefixes: dict[bytes, int] = {}
        """Of the prompts that were cached since anything was evicted."""

    def look_up(self, message: Generate, text: str, prompt_tokens: int) -> int:
        """How many of the prompt's tokens need not be computed; from now on it is known."""
        cached = 0
        if message.partition is not None:
            key = (message.partition.name, message.partition.salt, text)
            cached = max(0, self._tokens.pop(key, 0) - 1)
            self._tokens[key] = prompt_tokens
            for index, link in enumerate(message.prefixes):
                self.prefixes[link] = prompt_tokens * (index + 1) // len(message.prefixes)
            self._evict()
        self._prompt_tokens += prompt_tokens
        self._cached_tokens += cached
        self._lookups += 1
        self._hits += cached > 0
        return cached

    def set_budget(self, budget: CacheBudget) -> None:
        self._budget = budget
        self._evict()

    def report(self) -> CacheReport:
        return CacheReport(
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            lookups=self._lookups,
            hits=self._hits,
            ram=TierReport(
                enabled=self._budget.ram_bytes > 0,
                blocks=len(self._tokens),
                bytes=self._bytes(),
                budget_bytes=self._budget.ram_bytes,
                evicted_blocks=self._evicted,
            ),
            ssd=TierReport(reason="a stub writes nothing", budget_bytes=self._budget.ssd_bytes),
        )

    def _evict(self) -> None:
        while self._bytes() > self._budget.ram_bytes:
            del self._tokens[next(iter(self._tokens))]
            self._evicted += 1
            self.prefixes.clear()

    def _bytes(self) -> int:
        return sum(self._tokens.values()) * BYTES_PER_TOKEN
