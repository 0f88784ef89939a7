"""Replicas: what is wanted of each node, and what its supervisor sees."""

from collections.abc import Callable
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404

from registry import services
from registry.models import Replica
from registry.staff import (
    STATE_COLOURS,
    ReadOnlyAdmin,
    bulk_action,
    coloured,
    column,
    counted,
    each,
    post_action,
    refusals_shown,
)


@admin.register(Replica)
class ReplicaAdmin(ReadOnlyAdmin):
    empty_hint = "A replica appears when a model is loaded, by its first request or by the Load button."
    list_display = ("version", "node", "observed_label", "desired_label", "reason", "pid", "restarts", "observed_at")
    list_filter = ("observed", "desired", "node")
    search_fields = ("version__model__name", "node__name", "reason")
    search_help_text = "Model, node or reason"
    list_select_related = ("node", "version__model")
    actions = ("run_selected", "release_selected", "stop_selected")
    actions_row = ("run", "release", "stop")
    actions_detail = ("run", "release", "stop")
    fields = (
        ("version", "node"), ("observed_label", "desired_label"), "reason", ("pid", "restarts", "observed_at")
    )  # fmt: skip

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*super().get_readonly_fields(request, obj), "observed_label", "desired_label"]

    @column("state", ordering="observed")
    def observed_label(self, replica: Replica) -> str:
        return coloured(replica.observed, STATE_COLOURS)

    @column("wanted", ordering="desired")
    def desired_label(self, replica: Replica) -> str:
        return coloured(replica.desired, {"running": "primary"})

    @post_action("Keep running", icon="play_arrow", permission="operate")
    def run(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._desire(request, object_id, Replica.Desired.RUNNING)

    @post_action("On demand", icon="bolt", permission="operate")
    def release(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._desire(request, object_id, Replica.Desired.ON_DEMAND)

    @post_action("Stop", icon="stop", permission="operate")
    def stop(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._desire(request, object_id, Replica.Desired.STOPPED)

    @bulk_action("Keep selected replicas running", permission="operate")
    def run_selected(self, request: HttpRequest, replicas: QuerySet[Replica]) -> None:
        counted(request, each(request, replicas, _desired(Replica.Desired.RUNNING)), "to be kept running")

    @bulk_action("Run selected replicas on demand", permission="operate")
    def release_selected(self, request: HttpRequest, replicas: QuerySet[Replica]) -> None:
        counted(request, each(request, replicas, _desired(Replica.Desired.ON_DEMAND)), "on demand")

    @bulk_action("Stop selected replicas", permission="operate")
    def stop_selected(self, request: HttpRequest, replicas: QuerySet[Replica]) -> None:
        counted(request, each(request, replicas, _desired(Replica.Desired.STOPPED)), "to be stopped")

    def _desire(self, request: HttpRequest, object_id: str, desired: Replica.Desired) -> HttpResponse:
        replica = get_object_or_404(Replica.objects.select_related("node", "version__model"), pk=object_id)
        with refusals_shown(request):
            _desired(desired)(replica)
            messages.success(request, f"{replica}: {desired.label}.")
        return self.back(request)


def _desired(desired: Replica.Desired) -> Callable[[Replica], object]:
    def desire(replica: Replica) -> None:
        services.replica_desire(node=replica.node.name, version_pk=replica.version_id, desired=desired)

    return desire
