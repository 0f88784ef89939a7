"""Which node loads a model, which of its replicas takes a request, and what all nodes together say of it. Pure."""

from collections.abc import Callable, Iterable, Sequence

import msgspec

from inference.protocol import NodeView, ReplicaState, ReplicaView
from registry.nodes.homes import rank

_BY_HOPE = (
    ReplicaState.READY,
    ReplicaState.LOADING,
    ReplicaState.COLD,
    ReplicaState.DRAINING,
    ReplicaState.FAILED,
)
"""What is told of a version with several replicas: the state that a request would like best."""

_HELD_TOKENS = 128
"""A replica that need not compute so many of a prompt is preferred …"""
_HELD_WORTH = 2
"""… to one that has up to so many requests fewer."""


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """A node that can be reached, and what it says of one version."""

    node: str
    own: bool
    """Its gateway asks."""
    view: NodeView
    replica: ReplicaView | None
    """None: it says nothing of the version, which is cold there."""

    def can_load(self, now: float) -> bool:
        """Whether a demand there may lead to something; ``now`` in seconds since the epoch."""
        if not self.view.takes:
            return False
        replica = self.replica
        if replica is None or replica.state is not ReplicaState.FAILED:
            return True
        return not replica.never_fits and (replica.retry_at is None or replica.retry_at <= now)

    @property
    def busy_with_it(self) -> bool:
        """It has the version, or is about to."""
        replica = self.replica
        return replica is not None and (
            replica.state in (ReplicaState.READY, ReplicaState.LOADING) or (replica.place > 0 and self.view.takes)
        )


def told(sites: Sequence[Site], now: float) -> ReplicaView | None:
    """What is said of a version that may be at several sites. None: it is cold.

    A failure on one node is none while another one can load it.
    """
    known = [site.replica for site in sites if site.replica is not None]
    if not known:
        return None
    best = min(known, key=_hope)
    if best.state is ReplicaState.FAILED and any(site.can_load(now) for site in sites if site.replica is not best):
        return None
    return best


def places(sites: Iterable[Site], *, model: str, size_bytes: int, wanted: int, now: float) -> list[str]:
    """The nodes that are asked to load a version, the best first; where none can, the one that says best why not.

    In this order: who has it or is loading it; who has room for its files; the model's home, as of
    :mod:`registry.nodes.homes`.

    Args:
        model: the id of the version's model.
        size_bytes: of the version's files.
        wanted: on how many nodes it should be.
    """

    def preference(site: Site) -> tuple[bool, bool, bytes]:
        return not site.busy_with_it, not _has_room(site.view, size_bytes), rank(site.node, model)

    everybody = sorted(sites, key=preference)
    able = [site.node for site in everybody if site.can_load(now)]
    return able[: max(1, wanted)] or [site.node for site in everybody[:1]]


def choose(
    replicas: Sequence[ReplicaView],
    *,
    own_node: str,
    work: Callable[[ReplicaView], int],
    held_tokens: Callable[[ReplicaView], int],
) -> ReplicaView:
    """Which of several that are ready takes a request: the one with the least work; but one that holds the prompt's
    beginning may have two requests more. Among equals the own node's, to which the way is shortest.

    Args:
        work: requests that run or wait there.
        held_tokens: of the prompt, that it need not compute.
    """

    def cost(replica: ReplicaView) -> tuple[int, bool]:
        saved = _HELD_WORTH if held_tokens(replica) >= _HELD_TOKENS else 0
        return work(replica) - saved, replica.node != own_node

    return min(replicas, key=cost)


def _hope(replica: ReplicaView) -> tuple[int, float]:
    return _BY_HOPE.index(replica.state) if not replica.never_fits else len(_BY_HOPE), -replica.progress


def _has_room(view: NodeView, size_bytes: int) -> bool:
    return view.ram_bytes is None or view.taken_bytes + size_bytes <= view.ram_bytes
