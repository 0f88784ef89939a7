"""Nodes: the machines that run a supervisor."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404

from registry import listing
from registry.models import Node
from registry.nodes import services
from registry.nodes.selectors import node_is_up
from registry.presentation import size_text
from registry.staff import ReadOnlyAdmin, coloured, column, post_action, refusals_shown, unbroken


@admin.register(Node)
class NodeAdmin(ReadOnlyAdmin):
    empty_hint = "A node appears when its supervisor starts, in `manage.py up` or as `manage.py supervisor` elsewhere."
    list_display = ("name", "alive", "duty_label", "loaded", "ram_budget", "address", "last_seen_at", "started_at")
    list_filter = ("duty",)
    search_fields = ("name", "address")
    actions_row = ("open", "cordon", "drain", "forget")
    actions_detail = ("open", "cordon", "drain", "forget")
    fields = (
        ("name", "alive", "duty_label"),
        ("ram_budget", "address", "supervisor_pid"),
        ("started_at", "last_seen_at"),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Node]:
        rows: QuerySet[Node] = super().get_queryset(request)
        return rows.annotate(loaded=Count("replicas", filter=Q(replicas__observed__in=listing.STATES)))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*super().get_readonly_fields(request, obj), "alive", "duty_label", "ram_budget"]

    @column("state", ordering="last_seen_at")
    def alive(self, node: Node) -> str:
        return coloured("up" if node_is_up(node) else "silent", {"up": "success", "silent": "danger"})

    @column("duty", ordering="duty")
    def duty_label(self, node: Node) -> str:
        return coloured(node.duty, {"cordoned": "warning", "draining": "warning"})

    @post_action("Open", icon="play_arrow", permission="operate")
    def open(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._order(request, object_id, Node.Duty.OPEN, "takes models")

    @post_action("Cordon", icon="block", permission="operate")
    def cordon(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._order(request, object_id, Node.Duty.CORDONED, "loads no more models")

    @post_action("Drain", icon="logout", permission="operate")
    def drain(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._order(request, object_id, Node.Duty.DRAINING, "unloads what it has, and loads no more")

    @post_action("Forget", icon="delete", permission="operate")
    def forget(self, request: HttpRequest, object_id: str) -> HttpResponse:
        node = get_object_or_404(Node, pk=object_id)
        with refusals_shown(request):
            services.node_forget(name=node.name)
            messages.success(request, f"{node.name} is forgotten.")
        return HttpResponseRedirect(self.list_url())

    @column("loaded replicas", ordering="loaded")
    def loaded(self, node: Any) -> int:
        return int(node.loaded)

    @column("memory budget", ordering="ram_budget_mb")
    def ram_budget(self, node: Node) -> str:
        return unbroken(size_text(node.ram_budget_mb * 1024 * 1024))

    def _order(self, request: HttpRequest, object_id: str, duty: Node.Duty, what: str) -> HttpResponse:
        node = get_object_or_404(Node, pk=object_id)
        with refusals_shown(request):
            services.node_order(name=node.name, duty=duty)
            messages.success(request, f"{node.name} {what}.")
        return self.back(request)
