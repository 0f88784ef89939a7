"""Tenants and API keys over REST, for admins."""

from datetime import timedelta
from typing import ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from quotas.access import selectors, serializers, services
from quotas.models import ApiKey
from registry.rest import ControlView, EmptyInput, parsed


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
        settings = parsed(serializers.TenantCreate, request)
        tenant = services.tenant_create(name=settings.pop("name"), settings=settings)
        return Response(serializers.TenantOut(selectors.tenant_find(name=tenant.name)).data, status=201)


class TenantView(AdminView):
    @extend_schema(responses=serializers.TenantOut, tags=["access"])
    def get(self, request: Request, name: str) -> Response:
        """One tenant."""
        return Response(serializers.TenantOut(selectors.tenant_find(name=name)).data)

    @extend_schema(request=serializers.TenantPatch, responses=serializers.TenantOut, tags=["access"])
    def patch(self, request: Request, name: str) -> Response:
        """Change its share or limits; what is not named stays, and what was used of a window counts."""
        services.tenant_update(name=name, changes=parsed(serializers.TenantPatch, request))
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
        settings = parsed(serializers.KeyCreate, request)
        plain = {name: settings.pop(name) for name in ("tenant", "name", "role", "expires_at") if name in settings}
        return _new_key(*services.key_create(**plain, settings=settings))


class KeyView(AdminView):
    @extend_schema(responses=serializers.KeyOut, tags=["access"])
    def get(self, request: Request, pk: int) -> Response:
        """One API key, without its secret."""
        return Response(serializers.KeyOut(selectors.key_find(key_pk=pk)).data)

    @extend_schema(request=serializers.KeyPatch, responses=serializers.KeyOut, tags=["access"])
    def patch(self, request: Request, pk: int) -> Response:
        """Change its name, expiry, limits or what it may ask for; what is not named stays. Its role never changes."""
        services.key_update(key_pk=pk, changes=parsed(serializers.KeyPatch, request))
        return Response(serializers.KeyOut(selectors.key_find(key_pk=pk)).data)


class KeyRevokeView(AdminView):
    @extend_schema(request=EmptyInput, responses=serializers.KeyOut, tags=["access"])
    def post(self, request: Request, pk: int) -> Response:
        """Make a key useless for good."""
        parsed(EmptyInput, request)
        return Response(serializers.KeyOut(services.key_revoke(key_pk=pk)).data)


class KeyRotateView(AdminView):
    @extend_schema(request=serializers.KeyRotate, responses={201: serializers.NewKeyOut}, tags=["access"])
    def post(self, request: Request, pk: int) -> Response:
        """Replace a key by a new one, which has its rights and shares its limits. The old one is revoked, at once or
        after an overlap."""
        seconds = parsed(serializers.KeyRotate, request).get("overlap_seconds", 0)
        return _new_key(*services.key_rotate(key_pk=pk, overlap=timedelta(seconds=seconds)))


def _new_key(key: ApiKey, secret: str) -> Response:
    shown = serializers.NewKeyOut(key, context={"secret": secret}).data
    return Response(shown, status=201, headers={"Cache-Control": "no-store"})
