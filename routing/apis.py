"""How requests find their model, over REST. What became of them is told by the gateway (``/routing/stats``)."""

import msgspec
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from registry.rest import ControlView, EmptyInput, author, parsed
from routing import rollout_services, selectors, serializers, services
from routing.selectors import Configured

WRAPPER = "routing_config"


class RoutingView(ControlView):
    @extend_schema(responses=serializers.RoutingOut, tags=["routing"])
    def get(self, request: Request) -> Response:
        """The configuration in force."""
        return _routing(selectors.routing_find())

    @extend_schema(request=serializers.RoutingChange, responses=serializers.RoutingOut, tags=["routing"])
    def post(self, request: Request) -> Response:
        """Change what is named; the rest stays. Gateways follow within a second."""
        changes = parsed(serializers.RoutingChange, request, wrapper=WRAPPER)
        return _routing(services.routing_update(changes=changes, author=author(request)))


class RevisionListView(ControlView):
    @extend_schema(responses=serializers.RoutingRevisionOut(many=True), tags=["routing"])
    def get(self, request: Request) -> Response:
        """Every configuration that was in force, newest first."""
        return Response(serializers.RoutingRevisionOut(selectors.routing_revisions_list(), many=True).data)


class RevisionView(ControlView):
    @extend_schema(responses=serializers.RoutingRevisionOut, tags=["routing"])
    def get(self, request: Request, number: int) -> Response:
        """One of them."""
        return Response(serializers.RoutingRevisionOut(selectors.routing_revision_find(number=number)).data)


class RestoreView(ControlView):
    @extend_schema(request=EmptyInput, responses=serializers.RoutingOut, tags=["routing"])
    def post(self, request: Request, number: int) -> Response:
        """Make an earlier configuration the newest one."""
        parsed(EmptyInput, request)
        return _routing(services.routing_restore(number=number, author=author(request)))


class RestartView(ControlView):
    @extend_schema(request=serializers.RestartInput, responses=serializers.RoutingOut, tags=["routing"])
    def post(self, request: Request) -> Response:
        """Begin the roll-out of a route's A/B test anew, with its first step: after it was rolled back, say."""
        route = parsed(serializers.RestartInput, request)["route"]
        rollout_services.rollout_restart(route=route, author=author(request))
        return _routing(selectors.routing_find())


def _routing(configured: Configured) -> Response:
    shown = {
        **msgspec.to_builtins(configured.config),
        "revision": configured.revision,
        "rollouts": selectors.rollouts_standing(configured.config),
    }
    return Response(serializers.RoutingOut(shown).data)
