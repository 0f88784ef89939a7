"""Reads: what supervisors, gateways and operators get to know of nodes."""

from datetime import timedelta

import msgspec
from django.db.models import Q, QuerySet
from django.utils import timezone

from registry.catalogue import NodeEntry
from registry.models import Node
from registry.nodes.doors import address

AWAY_AFTER = timedelta(seconds=15)
"""Supervisors are heard of every five seconds; one that was not for so long is taken for gone."""


class Orders(msgspec.Struct, frozen=True):
    """What a supervisor is told about its own node."""

    takes: bool = True
    """New models may be loaded there."""
    empties: bool = False
    """What is loaded there is to leave."""


def nodes_load() -> dict[str, NodeEntry]:
    """All nodes that could be reached, by name: part of the gateways' snapshot."""
    rows = Node.objects.values_list("name", "address")
    return {name: NodeEntry(name=name, address=address(door) if door else None) for name, door in rows}


def orders_read(node: str) -> Orders:
    duty = Node.objects.filter(name=node).values_list("duty", flat=True).first()
    return Orders(takes=duty in (None, Node.Duty.OPEN), empties=duty == Node.Duty.DRAINING)


def node_is_up(node: Node) -> bool:
    return node.last_seen_at is not None and timezone.now() - node.last_seen_at < AWAY_AFTER


def nodes_left() -> QuerySet[Node]:
    """Those that are away or have to empty themselves: what should run there runs elsewhere meanwhile."""
    away = Q(last_seen_at=None) | Q(last_seen_at__lte=timezone.now() - AWAY_AFTER)
    return Node.objects.filter(away | Q(duty=Node.Duty.DRAINING))


def nodes_present(*, also: str = "") -> QuerySet[Node]:
    """Those that take models and were heard of lately; ``also`` is here whatever its last word was."""
    heard = Q(last_seen_at__gt=timezone.now() - AWAY_AFTER) | Q(name=also)
    return Node.objects.filter(heard, duty=Node.Duty.OPEN)
