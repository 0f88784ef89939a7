"""Limits over REST, for operators; tenants and API keys, for admins."""

from typing import ClassVar

import msgspec
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from quotas import selectors, serializers, services
from quotas.models import ApiKey
from quotas.quota_services import quota_restore, quota_update
from quotas.selectors import Quota
from registry.rest import ControlView, EmptyInput, author, parsed
from registry.services import model_named


class QuotaView(ControlView):
    @extend_schema(responses=serializers.QuotaOut, tags=["quotas"])
    def get(self, request: Request, name: str) -> Response:
        """A model's limits: its own, else the default ones of /cache/allocation."""
        model = model_named(name=name)
        return _quota(model.name, selectors.quota_find(model=model))

    @extend_schema(request=serializers.QuotaChange, responses=serializers.QuotaOut, tags=["quotas"])
    def post(self, request: Request, name: str) -> Response:
        """Change what is named; the rest stays. What was used of a window counts."""
        model = model_named(name=name)
        changes = parsed(serializers.QuotaChange, request, wrapper="quotas", beside={"model_id": name})
        return _quota(model.name, quota_update(model=model.name, changes=changes, author=author(request)))


class QuotaReportView(ControlView):
    @extend_schema(responses=serializers.QuotaReportOut, tags=["quotas"])
    def get(self, request: Request, name: str) -> Response:
        """How a model stands with its limits in the windows of now."""
        report = selectors.quota_report(model=model_named(name=name))
        return Response(serializers.QuotaReportOut(report).data)


class QuotaRevisionListView(ControlView):
    @extend_schema(responses=serializers.QuotaRevisionOut(many=True), tags=["quotas"])
    def get(self, request: Request, name: str) -> Response:
        """The limits that a model had, newest first."""
        rows = selectors.quota_revisions_list(model=model_named(name=name))
        return Response(serializers.QuotaRevisionOut(rows, many=True).data)


class QuotaRestoreView(ControlView):
    @extend_schema(request=EmptyInput, responses=serializers.QuotaOut, tags=["quotas"])
    def post(self, request: Request, name: str, number: int) -> Response:
        """Make earlier limits the newest ones."""
        parsed(EmptyInput, request)
        model = model_named(name=name)
        return _quota(model.name, quota_restore(model=model.name, number=number, author=author(request)))


class AdminView(ControlView):
    role: ClassVar[str] = "admin"


class TenantListView(AdminView):
    @extend_schema(responses=serializers.TenantOut(many=True), tags=["access"])
    def get(self, request: Request) -> Response:
        """All tenants."""
        return Response(serializers.TenantOut(selectors.tenants_list(), many=True).data)

    @extend_schema(request=serializers.TenantCreate, responses={201: serializers.TenantOut}, tags=["access"])
    def post(self, request: Request) -> Response:
        """Create a tenant."""
        tenant = services.tenant_create(**parsed(serializers.TenantCreate, request))
        return Response(serializers.TenantOut(selectors.tenant_find(name=tenant.name)).data, status=201)


class TenantView(AdminView):
    @extend_schema(responses=serializers.TenantOut, tags=["access"])
    def get(self, request: Request, name: str) -> Response:
        """One tenant."""
        return Response(serializers.TenantOut(selectors.tenant_find(name=name)).data)


class TenantEraseCacheView(AdminView):
    @extend_schema(request=EmptyInput, responses=serializers.TenantOut, tags=["access"])
    def post(self, request: Request, name: str) -> Response:
        """Forget all that was cached for a tenant, in memory and on disk: its key is replaced."""
        parsed(EmptyInput, request)
        services.partition_erase(tenant=name)
        return Response(serializers.TenantOut(selectors.tenant_find(name=name)).data)


class SharedCacheEraseView(AdminView):
    @extend_schema(request=EmptyInput, responses={204: None}, tags=["access"])
    def post(self, request: Request) -> Response:
        """Forget all that was cached of shared prompts, in memory and on disk: its key is replaced."""
        parsed(EmptyInput, request)
        services.partition_erase(tenant=None)
        return Response(status=204)


class KeyListView(AdminView):
    @extend_schema(responses=serializers.KeyOut(many=True), tags=["access"])
    def get(self, request: Request) -> Response:
        """All API keys, revoked ones too, without their secrets."""
        return Response(serializers.KeyOut(selectors.keys_list(), many=True).data)

    @extend_schema(request=serializers.KeyCreate, responses={201: serializers.NewKeyOut}, tags=["access"])
    def post(self, request: Request) -> Response:
        """Create an API key. Its secret is in this answer and nowhere else."""
        return _new_key(*services.key_create(**parsed(serializers.KeyCreate, request)))


class KeyView(AdminView):
    @extend_schema(responses=serializers.KeyOut, tags=["access"])
    def get(self, request: Request, pk: int) -> Response:
        """One API key, without its secret."""
        return Response(serializers.KeyOut(selectors.key_find(key_pk=pk)).data)


class KeyRevokeView(AdminView):
    @extend_schema(request=EmptyInput, responses=serializers.KeyOut, tags=["access"])
    def post(self, request: Request, pk: int) -> Response:
        """Make a key useless for good."""
        parsed(EmptyInput, request)
        return Response(serializers.KeyOut(services.key_revoke(key_pk=pk)).data)


class KeyRotateView(AdminView):
    @extend_schema(request=EmptyInput, responses={201: serializers.NewKeyOut}, tags=["access"])
    def post(self, request: Request, pk: int) -> Response:
        """Replace a key by a new one and revoke it."""
        parsed(EmptyInput, request)
        return _new_key(*services.key_rotate(key_pk=pk))


def _quota(model: str, found: Quota) -> Response:
    shown = {**msgspec.to_builtins(found.quota), "model_id": model, "revision": found.revision}
    return Response(serializers.QuotaOut(shown).data)


def _new_key(key: ApiKey, secret: str) -> Response:
    shown = serializers.NewKeyOut(key, context={"secret": secret}).data
    return Response(shown, status=201, headers={"Cache-Control": "no-store"})
