"""The first page of the admin: how much there is, and what needs a person."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import F, Q, Sum
from django.urls import reverse

from registry.catalogue import Health
from registry.models import Model, Node, Replica, Usage, Version

SILENT_AFTER = timedelta(seconds=60)
"""A supervisor reports far more often than this."""

_MOST_CONCERNS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    title: str
    value: str
    note: str
    link: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """Something that does not work as it should, with the words of whoever noticed."""

    subject: str
    word: str
    reason: str
    link: str


def figures(*, now: datetime) -> list[Figure]:
    models = Model.objects.filter(alias_of=None)
    enabled = models.filter(enabled=True).count()
    ready = Replica.objects.filter(observed=Replica.Observed.READY).count()
    loading = Replica.objects.filter(observed=Replica.Observed.LOADING).count()
    nodes = Node.objects.count()
    up = Node.objects.filter(last_seen_at__gt=now - SILENT_AFTER).count()
    requests = Usage.objects.aggregate(total=Sum("use_count"))["total"] or 0
    return [
        Figure(title="Models", value=str(models.count()), note=f"{enabled} enabled", link=_list("model")),
        Figure(title="Ready replicas", value=str(ready), note=f"{loading} loading", link=_list("replica")),
        Figure(title="Nodes up", value=f"{up} / {nodes}", note="heard within a minute", link=_list("node")),
        Figure(title="Requests", value=f"{requests:,}", note="since the models were added", link=_list("model")),
    ]


def concerns(*, now: datetime) -> list[Concern]:
    """Models that answer badly or not at all, replicas that failed, nodes that are silent; the first 20 of all."""
    sick = Version.objects.filter(
        Q(pk=F("model__promoted")) | Q(model__promoted=None),
        model__enabled=True,
        health__in=[Health.UNHEALTHY.value, Health.DEGRADED.value],
    )
    found = [
        Concern(
            subject=str(version),
            word=version.health,
            reason=version.health_reason,
            link=reverse("admin:registry_model_change", args=[version.model_id]),
        )
        for version in sick.select_related("model")[:_MOST_CONCERNS]
    ]
    failed = Replica.objects.filter(observed=Replica.Observed.FAILED).select_related("node", "version__model")
    found += [
        Concern(
            subject=str(replica),
            word=replica.observed,
            reason=replica.reason,
            link=reverse("admin:registry_replica_change", args=[replica.pk]),
        )
        for replica in failed[:_MOST_CONCERNS]
    ]
    silent = Node.objects.exclude(last_seen_at__gt=now - SILENT_AFTER)
    found += [
        Concern(
            subject=node.name,
            word="silent",
            reason=f"last heard of {node.last_seen_at:%Y-%m-%d %H:%M} UTC" if node.last_seen_at else "never heard of",
            link=reverse("admin:registry_node_change", args=[node.pk]),
        )
        for node in silent[:_MOST_CONCERNS]
    ]
    return found[:_MOST_CONCERNS]


def _list(name: str) -> str:
    return reverse(f"admin:registry_{name}_changelist")
