"""Writes: what operators tell nodes, and what becomes of those that are gone."""

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from registry.errors import InvalidRequest
from registry.listing import node_find
from registry.models import Node, Replica
from registry.nodes.selectors import AWAY_AFTER, node_is_up


def node_order(*, name: str, duty: str) -> Node:
    """Let a node load models (``open``), load no more (``cordoned``), or unload what it has as well (``draining``).

    Raises:
        NotFound: naming the nodes there are.
    """
    node = node_find(name=name)
    Node.objects.filter(pk=node.pk).exclude(duty=duty).update(duty=Node.Duty(duty))
    return node_find(name=name)


def node_forget(*, name: str) -> None:
    """Delete what is known of a node that is gone for good.

    Raises:
        NotFound: naming the nodes there are.
        InvalidRequest: it was heard of a moment ago, and would be back at once.
    """
    node = node_find(name=name)
    if node_is_up(node):
        raise InvalidRequest(
            f"The node '{name}' is running: stop it first, and forget it {AWAY_AFTER.seconds} s later.", param="node"
        )
    node.delete()


def nodes_expire(*, now: datetime | None = None) -> int:
    """What ran on nodes that are away runs no more, as far as anybody can tell; they say otherwise when they are back.

    Returns:
        How many replicas that were.
    """
    now = now or timezone.now()
    with transaction.atomic():
        gone = Replica.objects.filter(node__last_seen_at__lt=now - AWAY_AFTER).exclude(observed=Replica.Observed.COLD)
        return gone.update(
            observed=Replica.Observed.COLD, reason="its node is away", pid=None, restarts=0, observed_at=now
        )
