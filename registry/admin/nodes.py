"""Nodes: the machines that run a supervisor."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from registry import listing
from registry.models import Node
from registry.overview import SILENT_AFTER
from registry.presentation import size_text
from registry.staff import (
    ReadOnlyAdmin,
    coloured,
    column,
    unbroken,
)


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    empty_hint = "A node appears when its supervisor starts, in `manage.py up` or as `manage.py supervisor` elsewhere."
    list_display = ("name", "alive", "loaded", "ram_budget", "last_seen_at", "started_at")
    search_fields = ("name",)
    fields = (("name", "alive"), ("ram_budget", "supervisor_pid"), ("started_at", "last_seen_at"))

    def get_queryset(self, request: HttpRequest) -> QuerySet[Node]:
        rows: QuerySet[Node] = super().get_queryset(request)
        return rows.annotate(loaded=Count("replicas", filter=Q(replicas__observed__in=listing.STATES)))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*super().get_readonly_fields(request, obj), "alive", "ram_budget"]

    @column("state", ordering="last_seen_at")
    def alive(self, node: Node) -> str:
        seen = node.last_seen_at
        up = seen is not None and timezone.now() - seen < SILENT_AFTER
        return coloured("up" if up else "silent", {"up": "success", "silent": "danger"})

    @column("loaded replicas", ordering="loaded")
    def loaded(self, node: Any) -> int:
        return int(node.loaded)

    @column("memory budget", ordering="ram_budget_mb")
    def ram_budget(self, node: Node) -> str:
        return unbroken(size_text(node.ram_budget_mb * 1024 * 1024))
