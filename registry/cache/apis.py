"""The KV cache's control plane over REST: who gets how much, and which prompts all tenants share."""

import msgspec
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from registry.cache import selectors, serializers, services
from registry.cache.selectors import Configured
from registry.rest import ControlView, EmptyInput, author, parsed

WRAPPER = "cache_allocation"


class AllocationView(ControlView):
    @extend_schema(responses=serializers.AllocationOut, tags=["cache"])
    def get(self, request: Request) -> Response:
        """The configuration, the size that it comes to on each node, and what each model got there and why."""
        return _allocation(selectors.cache_configured_load())

    @extend_schema(request=serializers.AllocationChange, responses=serializers.AllocationOut, tags=["cache"])
    def post(self, request: Request) -> Response:
        """Change what is named; the rest stays. Running workers follow within a second."""
        changes = parsed(serializers.AllocationChange, request, wrapper=WRAPPER)
        return _allocation(services.cache_allocation_update(changes=changes, author=author(request)))


class RevisionListView(ControlView):
    @extend_schema(responses=serializers.RevisionOut(many=True), tags=["cache"])
    def get(self, request: Request) -> Response:
        """Every configuration that was in force, newest first."""
        return Response(serializers.RevisionOut(selectors.cache_revisions_list(), many=True).data)


class RevisionView(ControlView):
    @extend_schema(responses=serializers.RevisionOut, tags=["cache"])
    def get(self, request: Request, number: int) -> Response:
        """One of them."""
        return Response(serializers.RevisionOut(selectors.cache_revision_find(number=number)).data)


class RestoreView(ControlView):
    @extend_schema(request=EmptyInput, responses=serializers.AllocationOut, tags=["cache"])
    def post(self, request: Request, number: int) -> Response:
        """Make an earlier configuration the newest one."""
        parsed(EmptyInput, request)
        return _allocation(services.cache_allocation_restore(number=number, author=author(request)))


class SharedPromptListView(ControlView):
    @extend_schema(responses=serializers.SharedPromptOut(many=True), tags=["cache"])
    def get(self, request: Request) -> Response:
        """System prompts whose cached blocks all tenants share."""
        return Response(serializers.SharedPromptOut(selectors.shared_prompts_list(), many=True).data)

    @extend_schema(request=serializers.SharedPromptCreate, responses={201: serializers.SharedPromptOut}, tags=["cache"])
    def post(self, request: Request) -> Response:
        """Declare that a system prompt holds nothing of any tenant."""
        prompt = services.shared_prompt_create(**parsed(serializers.SharedPromptCreate, request))
        return Response(serializers.SharedPromptOut(prompt).data, status=201)


class SharedPromptView(ControlView):
    @extend_schema(responses=serializers.SharedPromptOut, tags=["cache"])
    def get(self, request: Request, name: str) -> Response:
        """One shared prompt."""
        return Response(serializers.SharedPromptOut(selectors.shared_prompt_find(name=name)).data)

    @extend_schema(request=serializers.SharedPromptPatch, responses=serializers.SharedPromptOut, tags=["cache"])
    def patch(self, request: Request, name: str) -> Response:
        """Change what is named; the rest stays."""
        prompt = services.shared_prompt_update(name=name, **parsed(serializers.SharedPromptPatch, request))
        return Response(serializers.SharedPromptOut(prompt).data)

    @extend_schema(request=None, responses={204: None}, tags=["cache"])
    def delete(self, request: Request, name: str) -> Response:
        """Tenants share it no longer."""
        services.shared_prompt_delete(name=name)
        return Response(status=204)


def _allocation(configured: Configured) -> Response:
    shown = {
        **msgspec.to_builtins(configured.config),
        "revision": configured.revision,
        "nodes": services.cache_nodes_current(),
    }
    return Response(serializers.AllocationOut(shown).data)
