"""What this gateway process counts of usage, until :mod:`inference.gateway.usage_thread` writes it."""

from quotas.usage.counts import UsageCounts, UsageKey

Counts = dict[UsageKey, UsageCounts]


class UsageBook:
    """What was counted since it was taken last. Owned by the event loop."""

    def __init__(self) -> None:
        self._counts: dict[tuple[int, int | None, str, str], UsageCounts] = {}

    def add(self, hour: int, key_pk: int | None, tenant: str, model: str, counts: UsageCounts) -> None:
        """``counts`` are the book's from here on."""
        key = hour, key_pk, tenant, model
        known = self._counts.get(key)
        if known is None:
            self._counts[key] = counts
        else:
            known.add(counts)

    def take(self) -> Counts:
        taken, self._counts = self._counts, {}
        return {
            UsageKey(hour=hour, key_pk=key_pk, tenant=tenant, model=model): counts
            for (hour, key_pk, tenant, model), counts in taken.items()
        }


def merge(into: Counts, more: Counts) -> None:
    """Add them; ``more`` is used up."""
    for key, counts in more.items():
        known = into.get(key)
        if known is None:
            into[key] = counts
        else:
            known.add(counts)
