"""Health over REST: check it now, and what it was. How it is, the gateway tells from memory."""

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from registry import services as registry
from registry.health import selectors, serializers, services
from registry.rest import ControlView, parsed

_SHOWN = 100


class HealthCheckView(ControlView):
    @extend_schema(request=serializers.CheckInput, responses=serializers.CheckedOut, tags=["health"])
    def post(self, request: Request) -> Response:
        """Check one model now, or all. Nothing is loaded for it; of what nodes tell of their workers, the newest word
        counts, which is a few seconds old at most."""
        name = parsed(serializers.CheckInput, request).get("model_id")
        services.model_check(
            name=name, models_dirs=settings.NOPENAI.models_dirs, starter_model=settings.NOPENAI.starter_model
        )
        found = selectors.models_health(names=None if name is None else [name])
        return Response(serializers.CheckedOut({"models": found}).data)


class ModelHealthView(ControlView):
    @extend_schema(responses=serializers.HistoryOut, tags=["health"])
    def get(self, request: Request, name: str) -> Response:
        """How a model is doing, and what became of it before."""
        model = registry.model_named(name=name)
        (health,) = selectors.models_health(names=[model.name])
        shown = serializers.ModelHealthOut(health).data
        history = serializers.TransitionOut(selectors.history_list(model=model)[:_SHOWN], many=True).data
        return Response({**shown, "history": history})
