"""The admins' pages: tenants and API keys."""

from datetime import datetime, timedelta
from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import FloatField, IntegerField
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.utils import timezone
from django.utils.html import format_html

from quotas.access import selectors, services
from quotas.access.forms import LIMIT_ROWS, LIMITS_HINT, KeyForm
from quotas.caller_limits import LIMIT_FIELDS
from quotas.callers import Role
from quotas.models import ApiKey, Tenant
from registry.rest import bounds_told
from registry.staff import ServiceAdmin, become, bulk_action, coloured, column, counted, post_action, refusals_shown


class _LimitedAdmin(ServiceAdmin):
    """A page of those who have limits."""

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field = super().formfield_for_dbfield(db_field, request, **kwargs)
        if isinstance(field, IntegerField | FloatField):
            field.error_messages |= bounds_told(", or nothing for no limit" if db_field.null else "")
        return field


@admin.register(Tenant)
class TenantAdmin(_LimitedAdmin):
    empty_hint = "A tenant owns API keys. Who needs only one need not add it: the first key makes “default”."
    list_display = ("name", "weight", "limited", "active_keys", "created_at")
    search_fields = ("name",)
    fieldsets = (
        (None, {"fields": (("name", "weight"),)}),
        ("Limits of all its keys together", {"fields": LIMIT_ROWS, "description": LIMITS_HINT}),
    )
    actions_row = ("erase_cache",)
    actions_detail = ("erase_cache",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tenant]:
        return selectors.tenants_list()

    def get_readonly_fields(self, request: HttpRequest, obj: Tenant | None = None) -> list[str]:
        """A tenant's name is what its cache and usage hang on: it stays."""
        return ["name"] if obj else []

    def has_delete_permission(self, request: HttpRequest, obj: Tenant | None = None) -> bool:
        """What a tenant used must stay accountable."""
        return False

    def has_erase_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("quotas.change_tenant"))

    def save_model(self, request: HttpRequest, obj: Tenant, form: Any, change: bool) -> None:
        settings = {name: getattr(obj, name) for name in services.TENANT_SETTINGS}
        if change:
            changes = {name: value for name, value in settings.items() if name in form.changed_data}
            become(obj, services.tenant_update(name=obj.name, changes=changes))
        else:
            become(obj, services.tenant_create(name=obj.name, settings=settings))

    @column("limited", boolean=True)
    def limited(self, tenant: Tenant) -> bool:
        return _limited(tenant)

    @column("working keys", ordering="active_keys")
    def active_keys(self, tenant: Any) -> int:
        return int(tenant.active_keys)

    @post_action("Erase cache", icon="ink_eraser", permission="erase")
    def erase_cache(self, request: HttpRequest, object_id: str) -> HttpResponse:
        tenant = get_object_or_404(Tenant, pk=object_id)
        with refusals_shown(request):
            services.partition_erase(tenant=tenant.name)
            messages.success(request, f"What was cached for {tenant.name} is out of reach, in memory and on disk.")
        return self.back(request)


@admin.register(ApiKey)
class ApiKeyAdmin(_LimitedAdmin):
    empty_hint = "An API key lets a client in. Its secret is shown once, when it is made."
    form = KeyForm
    list_display = ("shown_prefix", "name", "tenant", "role_label", "state", "limited", "last_used", "expires_at")
    list_filter = ("role", "tenant", ("revoked_at", admin.EmptyFieldListFilter))
    search_fields = ("name", "prefix", "tenant__name")
    search_help_text = "Name, tenant, or how the key begins"
    list_select_related = ("tenant", "use")
    actions = ("revoke_selected",)
    actions_row = ("revoke", "rotate", "rotate_slowly")
    actions_detail = ("revoke", "rotate", "rotate_slowly")
    _may = ("What it may ask for", {"fields": (("allowed_models", "allowed_routes"), "max_priority")})
    _limits = ("Limits of this key", {"fields": LIMIT_ROWS, "description": LIMITS_HINT})
    add_fieldsets = ((None, {"fields": (("tenant", "name"), "role", "expires_at")}), _may, _limits)
    fieldsets = (
        (None, {"fields": (("shown_prefix", "state"), ("tenant", "role"), "name")}),
        _may,
        _limits,
        ("Life", {"fields": ("expires_at", ("created_at", "last_used"), ("revoked_at", "rotated_from"))}),
    )
    _fixed = ("shown_prefix", "state", "created_at", "revoked_at", "last_used", "rotated_from")

    def get_readonly_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[str]:
        """Whose a key is and its role stay as long as it lives."""
        return [*self._fixed, "tenant", "role"] if obj else list(self._fixed)

    def has_change_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """Of a revoked key nothing changes any more, and an admin's is for superusers only."""
        if obj is not None and (obj.revoked_at or (obj.role == Role.ADMIN and not request.user.is_superuser)):
            return False
        return bool(super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: ApiKey | None = None) -> bool:
        """Revoked keys stay: they say who could do what, and until when."""
        return False

    def has_manage_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("quotas.change_apikey"))

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> list[Any]:
        """A revoked key is over; its row in the list offers nothing either (``unfold/helpers/actions_row.html``)."""
        key = self.get_object(request, str(object_id))
        over = key is not None and key.revoked_at is not None
        return [] if over else list(super().get_actions_detail(request, object_id))

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Nobody hands out more than they have: an admin's key may do what only superusers may."""
        if db_field.name == "role" and not request.user.is_superuser:
            kwargs["choices"] = [choice for choice in db_field.choices if choice[0] != Role.ADMIN]
        return super().formfield_for_choice_field(db_field, request, **kwargs)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """No choice means the default tenant, which the first key makes."""
        if db_field.name == "tenant":
            kwargs |= {"required": False, "help_text": f"None means “{services.DEFAULT_TENANT}”."}
            kwargs["queryset"] = Tenant.objects.exclude(name=services.DEFAULT_TENANT)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        settings = {name: form.cleaned_data[name] for name in services.KEY_SETTINGS}
        if change:
            plain = {"name": obj.name, "expires_at": obj.expires_at}
            changes = {name: value for name, value in {**settings, **plain}.items() if name in form.changed_data}
            become(obj, services.key_update(key_pk=obj.pk, changes=changes))
            return
        tenant = obj.tenant.name if obj.tenant_id else services.DEFAULT_TENANT
        key, secret = services.key_create(
            tenant=tenant, name=obj.name, role=obj.role, expires_at=obj.expires_at, settings=settings
        )
        become(obj, key)
        _show_secret(request, key, secret)

    @column("key", ordering="prefix")
    def shown_prefix(self, key: ApiKey) -> str:
        return f"{key.prefix}…"

    @column("role", ordering="role")
    def role_label(self, key: ApiKey) -> str:
        return coloured(key.role, {"admin": "primary", "operator": "info"})

    @column("state")
    def state(self, key: ApiKey) -> str:
        expired = key.expires_at is not None and key.expires_at <= timezone.now()
        word = "revoked" if key.revoked_at else "expired" if expired else "valid"
        return coloured(word, {"valid": "success", "expired": "warning", "revoked": "danger"})

    @column("limited", boolean=True)
    def limited(self, key: ApiKey) -> bool:
        return _limited(key)

    @column("last used", ordering="use__used_at")
    def last_used(self, key: ApiKey) -> datetime | None:
        return selectors.last_used_at(key)

    @post_action("Revoke", icon="block", permission="manage")
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponse:
        with refusals_shown(request):
            key = services.key_revoke(key_pk=int(object_id))
            messages.success(request, f"{key.prefix}… lets nobody in any more.")
        return self.back(request)

    @post_action("Rotate", icon="autorenew", permission="manage")
    def rotate(self, request: HttpRequest, object_id: str) -> HttpResponse:
        with refusals_shown(request):
            _show_secret(request, *services.key_rotate(key_pk=int(object_id)))
        return self.back(request)

    @post_action("Rotate, old one works for a day", icon="schedule", permission="manage")
    def rotate_slowly(self, request: HttpRequest, object_id: str) -> HttpResponse:
        with refusals_shown(request):
            _show_secret(request, *services.key_rotate(key_pk=int(object_id), overlap=timedelta(days=1)))
        return self.back(request)

    @bulk_action("Revoke selected keys", permission="manage")
    def revoke_selected(self, request: HttpRequest, keys: QuerySet[ApiKey]) -> None:
        for key in keys:
            services.key_revoke(key_pk=key.pk)
        counted(request, len(keys), "revoked")


def _limited(row: Tenant | ApiKey) -> bool:
    return any(getattr(row, name) is not None for name in LIMIT_FIELDS)


def _show_secret(request: HttpRequest, key: ApiKey, secret: str) -> None:
    """The message travels in a signed cookie of this browser (MESSAGE_STORAGE), never through the database."""
    told = format_html(
        'Keep the secret of this {} key now; it is not shown again: <code class="select-all">{}</code>',
        key.role,
        secret,
    )
    messages.success(request, told)
