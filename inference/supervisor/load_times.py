"""What loads take, learned from the last ones. Pure."""

from collections.abc import Mapping
from statistics import median

from inference.protocol import LoadSeconds, LoadTier

SAMPLES = 5
"""Of the last loads; their median does not care about one that a busy machine made slow."""

_PRIOR_BYTES_PER_SECOND = {LoadTier.DISK: 200e6, LoadTier.PAGE_CACHE: 2e9, LoadTier.WARM: 2e9}
_PRIOR_STARTING = {LoadTier.DISK: 0.4, LoadTier.PAGE_CACHE: 0.4, LoadTier.WARM: 0.05}
_PRIOR_WARMING = 0.2

Key = tuple[int, LoadTier]
"""The primary key of a version, and the tier."""
Samples = tuple[LoadSeconds, ...]
"""The newest last."""


class LoadTimes:
    """Of this node."""

    def __init__(self) -> None:
        self._known: dict[Key, Samples] = {}

    def read(self, written: Mapping[Key, Samples]) -> None:
        """As SQL has them; what was learned since knows better."""
        self._known = {**written, **self._known}

    def learn(self, version_pk: int, tier: LoadTier, seconds: LoadSeconds) -> Samples:
        """All that is known of it then."""
        samples = (*self._known.get((version_pk, tier), ()), seconds)[-SAMPLES:]
        self._known[version_pk, tier] = samples
        return samples

    def expected(self, version_pk: int, tier: LoadTier, weight_bytes: int) -> LoadSeconds:
        samples = self._known.get((version_pk, tier))
        if not samples:
            return LoadSeconds(
                starting=_PRIOR_STARTING[tier],
                reading=weight_bytes / _PRIOR_BYTES_PER_SECOND[tier],
                warming=_PRIOR_WARMING,
            )
        return LoadSeconds(
            starting=median(each.starting for each in samples),
            reading=median(each.reading for each in samples),
            warming=median(each.warming for each in samples),
        )
