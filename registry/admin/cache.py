"""The KV cache: how it is divided, the history of that, and the prompts that all tenants share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.html import format_html
from unfold.decorators import action

from registry.admin.cache_forms import AllocationForm
from registry.cache import selectors, services
from registry.cache.allocation import Size
from registry.cache.models import CacheRevision, SharedPrompt
from registry.cache.selectors import NodeCache
from registry.presentation import size_text
from registry.staff import ReadOnlyAdmin, ServiceAdmin, become, column, post_action, refusals_shown, unbroken

_SHOWN_OF_TEXT = 100
_SHOWN_BARS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A model's part of a tier."""

    model: str
    percent: str
    """As CSS writes it."""
    size: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TierBars:
    node: str
    tier: str
    size: str
    note: str
    bars: list[Bar]
    """Of the models that have most."""
    rest: str
    """What the others have together; empty where there are none."""


@admin.register(CacheRevision)
class CacheRevisionAdmin(ReadOnlyAdmin):
    empty_hint = "Every change of how the cache is divided is listed here, and can be restored."
    list_before_template = "admin/cache_shares.html"
    list_display = ("title", "strategy", "policy", "sizes", "comment", "author", "created_at")
    search_fields = ("author", "comment")
    search_help_text = "Who changed it, or why"
    actions_list = ("change_division",)
    actions_row = ("restore",)
    actions_detail = ("restore",)
    fields = (("title", "author", "created_at"), "comment", "shown_config")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return bool(request.user.has_perm("registry.add_cacherevision"))

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.has_add_permission(request)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        return super().get_form(request, obj, change, **kwargs) if obj else AllocationForm

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        return super().get_fieldsets(request, obj) if obj else AllocationForm.fieldsets

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        return [*super().get_readonly_fields(request, obj), "title", "shown_config"] if obj else []

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        shown = {
            "title": "KV cache",
            "has_add_permission": False,  # the button “Change” does the same, and says what
            "tiers": [tier for node in services.cache_nodes_current() for tier in _bars(node)],
        }
        return super().changelist_view(request, {**(extra_context or {}), **shown})

    def add_view(self, request: HttpRequest, form_url: str = "", extra_context: dict[str, Any] | None = None) -> Any:
        """One change is one revision: there is nothing to go on with after it."""
        shown = {"title": "Change how the cache is divided", "show_save_and_continue": False}
        shown["show_save_and_add_another"] = False
        return super().add_view(request, form_url, {**(extra_context or {}), **shown})

    def save_model(self, request: HttpRequest, obj: CacheRevision, form: Any, change: bool) -> None:
        kept = services.cache_allocation_update(
            changes=form.changes, author=request.user.get_username(), comment=obj.comment
        )
        become(obj, selectors.cache_revision_find(number=kept.revision))

    @column("revision", ordering="number")
    def title(self, row: CacheRevision) -> str:
        return str(row)

    @column("strategy")
    def strategy(self, row: CacheRevision) -> str:
        return selectors.config_value(row).allocation_strategy.value

    @column("who gives way")
    def policy(self, row: CacheRevision) -> str:
        return selectors.config_value(row).global_eviction_policy.value

    @column("size")
    def sizes(self, row: CacheRevision) -> str:
        config = selectors.config_value(row)
        named = {
            "all": config.global_cache_size_gb,
            "RAM": config.global_cache_ram_gb,
            "SSD": config.global_cache_ssd_gb,
        }
        return unbroken(", ".join(f"{name} {gb:g} GiB" for name, gb in named.items() if gb is not None)) or "default"

    @column("configuration")
    def shown_config(self, row: CacheRevision) -> str:
        return format_html('<pre class="overflow-x-auto text-sm">{}</pre>', _written(row))

    @action(description="Change", icon="tune", permissions=["operate"])  # type: ignore[untyped-decorator]
    def change_division(self, request: HttpRequest) -> HttpResponse:
        return redirect("admin:registry_cacherevision_add")

    @post_action("Restore", icon="restore", permission="operate")
    def restore(self, request: HttpRequest, object_id: str) -> HttpResponse:
        with refusals_shown(request):
            author = request.user.get_username()
            kept = services.cache_allocation_restore(number=int(object_id), author=author)
            messages.success(request, f"What revision {object_id} said is in force, as revision {kept.revision}.")
        return self.back(request)


@admin.register(SharedPrompt)
class SharedPromptAdmin(ServiceAdmin):
    empty_hint = "A system prompt that holds nothing of any tenant, once it is declared here, is cached once for all."
    list_display = ("name", "beginning", "enabled", "created_at")
    list_filter = ("enabled",)
    search_fields = ("name", "text")
    fields = ("name", "text", "enabled")

    def get_readonly_fields(self, request: HttpRequest, obj: SharedPrompt | None = None) -> list[str]:
        return ["name"] if obj else []

    def save_model(self, request: HttpRequest, obj: SharedPrompt, form: Any, change: bool) -> None:
        """Browsers send a text area's lines with carriage returns; requests have none."""
        save = services.shared_prompt_update if change else services.shared_prompt_create
        become(obj, save(name=obj.name, text=obj.text.replace("\r\n", "\n"), enabled=obj.enabled))

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Requests must equal it to the letter: nothing is stripped."""
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "text":
            field.strip = False
        return field

    @column("text")
    def beginning(self, prompt: SharedPrompt) -> str:
        return prompt.text if len(prompt.text) <= _SHOWN_OF_TEXT else prompt.text[:_SHOWN_OF_TEXT] + "…"


def _written(row: CacheRevision) -> str:
    """In the order in which it is documented; SQL has another."""
    return msgspec.json.format(msgspec.json.encode(selectors.config_value(row)), indent=2).decode()


def _bars(node: NodeCache) -> list[TierBars]:
    parts = {
        "RAM": (node.sizes.ram, {model: share.ram_bytes for model, share in node.shares.items()}),
        "SSD": (node.sizes.ssd, {model: share.ssd_bytes for model, share in node.shares.items()}),
    }
    return [
        TierBars(
            node=node.node,
            tier=tier,
            size=unbroken(size_text(size.effective_bytes)),
            note=_note(size),
            bars=[
                Bar(
                    model=model,
                    percent=f"{100 * part / max(1, size.effective_bytes):.2f}",
                    size=unbroken(size_text(part)),
                    why=node.shares[model].why,
                )
                for model, part in _largest(given)[:_SHOWN_BARS]
            ],
            rest=_rest(_largest(given)[_SHOWN_BARS:]),
        )
        for tier, (size, given) in parts.items()
    ]


def _largest(given: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(given.items(), key=lambda item: (-item[1], item[0]))


def _rest(given: Sequence[tuple[str, int]]) -> str:
    if not given:
        return ""
    together = unbroken(size_text(sum(part for _, part in given)))
    return f"{len(given):,} more models have {together} together, at most {unbroken(size_text(given[0][1]))} each."


def _note(size: Size) -> str:
    if size.effective_bytes == size.configured_bytes:
        return ""
    return f"of {unbroken(size_text(size.configured_bytes))} that are configured: the node has no more"
