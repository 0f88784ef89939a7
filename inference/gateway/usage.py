"""What this gateway process counts of usage, until :mod:`inference.gateway.usage_thread` writes it."""

from quotas.usage.counts import UsageCounts, UsageKey

Counts = dict[UsageKey, UsageCounts]


class UsageBook:
    """What was counted since it was taken last. Owned by the event loop."""

    def __init__(self) -> None:
        self._counts: Counts = {}

    def add(self, key: UsageKey, counts: UsageCounts) -> None:
        known = self._counts.get(key)
        if known is None:
            self._counts[key] = counts
        else:
            known.add(counts)

    def take(self) -> Counts:
        counts, self._counts = self._counts, {}
        return counts


def merge(into: Counts, more: Counts) -> None:
    """Add them; ``more`` is used up."""
    for key, counts in more.items():
        known = into.get(key)
        if known is None:
            into[key] = counts
        else:
            known.add(counts)
