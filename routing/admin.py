"""How requests find their model: what is in force, its history, and the form that changes it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from unfold.decorators import action

from registry.staff import ReadOnlyAdmin, become, column, post_action, refusals_shown
from routing import rollout_services, selectors, services
from routing.admin_forms import STRATEGIES, RulesForm, form_for
from routing.admin_live import COLUMNS, live
from routing.config import AUTO, Routing, Rules
from routing.experiments.standing import Standing
from routing.models import RoutingRevision

_MOST_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A route as the page shows it."""

    name: str
    strategy: str
    facts: list[tuple[str, str]]
    change_url: str
    has_rollout: bool


@admin.register(RoutingRevision)
class RoutingRevisionAdmin(ReadOnlyAdmin):
    empty_hint = "Every change of how requests find their model is listed here, and can be restored."
    list_before_template = "admin/routes.html"
    list_display = ("title", "changed", "comment", "author", "created_at")
    search_fields = ("author", "comment")
    search_help_text = "Who changed it, or why"
    actions_list = ("change_default", "add_route")
    actions_row = ("restore",)
    actions_detail = ("restore",)
    fields = (("title", "author", "created_at"), "comment", "changed", "shown_config")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("routing.add_routingrevision"))

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_add_permission(request)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **kwargs) if obj else _form(request)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_fieldsets(request, obj) if obj else _form(request).fieldsets()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*super().get_readonly_fields(request, obj), "title", "changed", "shown_config"] if obj else []

    def get_urls(self) -> list[URLPattern]:
        restart = self.admin_site.admin_view(self.restart_rollout)
        return [path("rollout/<str:route>/restart/", restart, name="routing_rollout_restart"), *super().get_urls()]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        config = selectors.routing_find().config
        rollouts = selectors.rollouts_standing(config)
        shown = {
            "title": "Routing",
            "has_add_permission": False,  # the buttons above do the same, and say what
            "routes": [_card(name, rules, rollouts.get(name)) for name, rules in config.all_rules().items()],
            "live": live(request.user.get_username()),
            "test_columns": COLUMNS,
            "may_change": self.has_add_permission(request),
        }
        return super().changelist_view(request, {**(extra_context or {}), **shown})

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> Any:
        """One change is one revision: there is nothing to go on with after it."""
        route = _route(request)
        shown: dict[str, Any] = {"title": f"Change the route {route}" if route else "Add a route"}
        shown |= {"show_save_and_continue": False, "show_save_and_add_another": False}
        return super().add_view(request, form_url, {**(extra_context or {}), **shown})

    def save_model(self, request: HttpRequest, obj: RoutingRevision, form: Any, change: bool) -> None:
        kept = services.routing_update(changes=form.changes, author=request.user.get_username(), comment=obj.comment)
        become(obj, selectors.routing_revision_find(number=kept.revision))

    @column("revision", ordering="number")
    def title(self, row: RoutingRevision) -> str:
        return str(row)

    @column("changed")
    def changed(self, row: RoutingRevision) -> str:
        """Against the revision before."""
        before = RoutingRevision.objects.filter(number__lt=row.number).first()
        old = Routing() if before is None else selectors.config_value(before)
        return ", ".join(_differences(old, selectors.config_value(row))) or "–"

    @column("configuration")
    def shown_config(self, row: RoutingRevision) -> str:
        written = msgspec.json.format(msgspec.json.encode(selectors.config_value(row)), indent=2).decode()
        return format_html('<pre class="overflow-x-auto text-sm">{}</pre>', written)

    @action(description="Change auto", icon="tune", permissions=["operate"])  # type: ignore[untyped-decorator]
    def change_default(self, request: HttpRequest) -> HttpResponse:
        return redirect(_change_url(AUTO))

    @action(description="Add a route", icon="add", permissions=["operate"])  # type: ignore[untyped-decorator]
    def add_route(self, request: HttpRequest) -> HttpResponse:
        return redirect(_change_url(""))

    @post_action("Restore", icon="restore", permission="operate")
    def restore(self, request: HttpRequest, object_id: str) -> HttpResponse:
        with refusals_shown(request):
            kept = services.routing_restore(number=int(object_id), author=request.user.get_username())
            messages.success(request, f"What revision {object_id} said is in force, as revision {kept.revision}.")
        return self.back(request)

    def restart_rollout(self, request: HttpRequest, route: str) -> HttpResponse:
        """Changes something, so it takes a form that was sent."""
        if not self.has_operate_permission(request) or request.method != "POST":
            messages.error(request, "Nothing was begun: that needs the button itself, and leave to change the routing.")
            return redirect(self.list_url())
        with refusals_shown(request):
            rollout_services.rollout_restart(route=route, author=request.user.get_username())
            messages.success(request, f"The roll-out of {route} begins anew, with its first step.")
        return self.back(request)


def _route(request: HttpRequest) -> str:
    """Which one is to be changed; an unknown one is to be added."""
    named = request.GET.get("route", AUTO)
    return named if named in selectors.routing_find().config.all_rules() else ""


def _form(request: HttpRequest) -> type[RulesForm]:
    return form_for(_route(request))


def _change_url(route: str) -> str:
    return reverse("admin:routing_routingrevision_add", query={"route": route})


def _card(name: str, rules: Rules, rollout: Standing | None) -> Card:
    facts = {
        "Candidates": "all models" if rules.candidates is None else _listed(rules.candidates),
        "Fallbacks": _listed(rules.fallback_models),
        "A/B test": _test(rules, rollout),
        "Roll-out": rollout.words if rollout else "",
        "Filters": _listed(_filters(rules)) or "none",
    }
    return Card(
        name=name,
        strategy=STRATEGIES[rules.strategy],
        facts=[(label, text) for label, text in facts.items() if text],
        change_url=_change_url(name),
        has_rollout=rollout is not None,
    )


def _test(rules: Rules, rollout: Standing | None) -> str:
    if not rules.ab_test_enabled:
        return ""
    if rules.ab_test_mirror:
        return f"{rules.ab_test_model_a} answers, {rules.ab_test_model_b} gets copies of {1 - rules.ab_test_split:.0%}"
    share_of_b = rollout.share_of_b if rollout else 1 - rules.ab_test_split
    shares = f"{1 - share_of_b:.0%}", f"{share_of_b:.0%}"
    return f"{rules.ab_test_model_a} {shares[0]}, {rules.ab_test_model_b} {shares[1]}"


def _filters(rules: Rules) -> Iterator[str]:
    words = {
        "health": rules.enable_health_checks,
        "limits": rules.enable_quota_checks,
        "only what is loaded": rules.warm_only,
    }
    return (word for word, on in words.items() if on)


def _listed(names: Any) -> str:
    names = list(names)
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return ", ".join(names[:_MOST_SHOWN]) + more


def _differences(old: Routing, new: Routing) -> Iterator[str]:
    """The fields, those of a route with its name before."""
    before, after = msgspec.to_builtins(old), msgspec.to_builtins(new)
    routes_before, routes_after = before.pop("routes"), after.pop("routes")
    yield from (name for name, value in after.items() if value != before[name])
    for route in sorted(routes_before.keys() | routes_after.keys()):
        if route not in routes_after:
            yield f"{route} removed"
        elif route not in routes_before:
            yield f"{route} added"
        else:
            fields = routes_after[route].items()
            yield from (f"{route}.{name}" for name, value in fields if value != routes_before[route][name])
