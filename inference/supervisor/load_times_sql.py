"""What SQL and this node tell each other of how long loads took. Runs in the store's thread."""

from collections.abc import Mapping

import msgspec

from inference.protocol import LoadSeconds, LoadTier
from inference.supervisor.load_times import Key, Samples
from registry import load_times


def load_times_read(node: str) -> dict[Key, Samples]:
    """What no longer reads as we write it is learned again."""
    known: dict[Key, Samples] = {}
    for row in load_times.load_times_load(node=node):
        try:
            known[row.version_pk, LoadTier(row.tier)] = msgspec.convert(row.samples, tuple[LoadSeconds, ...])
        except (msgspec.ValidationError, ValueError):
            continue
    return known


def load_times_write(node: str, learned: Mapping[Key, Samples]) -> None:
    for (version_pk, tier), samples in learned.items():
        taken = load_times.Taken(version_pk, tier.value, [msgspec.to_builtins(each) for each in samples])
        load_times.load_time_record(node=node, taken=taken)
