"""The registry over REST. Reads of single models by clients are the gateway's; these are for operators."""

from typing import Any

from django.conf import settings
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from registry import editing, listing, serializers, services, tuning
from registry.models import Replica
from registry.nodes import services as nodes
from registry.rest import ControlView, EmptyInput, parsed

# --- The user guide's two writes -------------------------------------------------------------------------------------


class ModelRegisterView(ControlView):
    @extend_schema(request=serializers.ModelRegister, responses={201: serializers.ModelOut}, tags=["models"])
    def post(self, request: Request) -> Response:
        """Register a model, or a new version of one, from a file under an allowed models directory."""
        values = parsed(serializers.ModelRegister, request)
        version = services.model_register(name=values.pop("id"), models_dirs=settings.NOPENAI.models_dirs, **values)
        return Response(serializers.ModelOut(listing.model_find(name=version.model.name)).data, status=201)


class ModelDefaultView(ControlView):
    @extend_schema(request=serializers.ModelDefault, responses=serializers.ModelOut, tags=["models"])
    def post(self, request: Request) -> Response:
        """Choose the model that answers requests which name none."""
        model = services.model_set_default(name=parsed(serializers.ModelDefault, request)["model_id"])
        return Response(serializers.ModelOut(listing.model_find(name=model.name)).data)


# --- Models ----------------------------------------------------------------------------------------------------------


class ModelListView(ControlView):
    @extend_schema(responses=serializers.ControlledModelOut(many=True), tags=["models"])
    def get(self, request: Request) -> Response:
        """All models, by id."""
        return Response(serializers.ControlledModelOut(listing.models_list(), many=True).data)


class ModelView(ControlView):
    @extend_schema(responses=serializers.ControlledModelOut, tags=["models"])
    def get(self, request: Request, name: str) -> Response:
        """One model. Its id may contain / and :, as they are or percent-encoded."""
        return _model(name)

    @extend_schema(request=serializers.ModelPatch, responses=serializers.ControlledModelOut, tags=["models"])
    def patch(self, request: Request, name: str) -> Response:
        """Change what is named; the rest stays."""
        editing.model_update(name=name, **parsed(serializers.ModelPatch, request))
        return _model(name)


class ModelPromoteView(ControlView):
    @extend_schema(request=serializers.VersionPromote, responses=serializers.ControlledModelOut, tags=["versions"])
    def post(self, request: Request, name: str) -> Response:
        """Make a version the one that the bare id means."""
        services.version_promote(name=name, number=parsed(serializers.VersionPromote, request)["version"])
        return _model(name)


class ModelLoadView(ControlView):
    @extend_schema(
        request=serializers.ReplicaDesire, responses={202: serializers.ReplicaOut(many=True)}, tags=["replicas"]
    )
    def post(self, request: Request, name: str) -> Response:
        """Ask the supervisors to load a model and keep it loaded. The answer shows what they had observed before."""
        return _desire(name, parsed(serializers.ReplicaDesire, request), Replica.Desired.RUNNING)


class ModelUnloadView(ControlView):
    @extend_schema(
        request=serializers.ReplicaDesire, responses={202: serializers.ReplicaOut(many=True)}, tags=["replicas"]
    )
    def post(self, request: Request, name: str) -> Response:
        """Ask the supervisors to unload a model. The next request for it loads it again."""
        return _desire(name, parsed(serializers.ReplicaDesire, request), Replica.Desired.STOPPED)


class ScanView(ControlView):
    @extend_schema(request=EmptyInput, responses=serializers.ScanOut, tags=["models"])
    def post(self, request: Request) -> Response:
        """Look through the models directories now instead of at the next change or minute."""
        parsed(EmptyInput, request)
        report = services.models_scan(
            models_dirs=settings.NOPENAI.models_dirs, starter_model=settings.NOPENAI.starter_model
        )
        return Response(serializers.ScanOut(report).data)


# --- Versions, nodes, replicas ---------------------------------------------------------------------------------------


class VersionListView(ControlView):
    @extend_schema(responses=serializers.VersionOut(many=True), tags=["versions"])
    def get(self, request: Request, name: str) -> Response:
        """The versions of a model, newest first."""
        return Response(serializers.VersionOut(listing.versions_list(name=name), many=True).data)


class VersionView(ControlView):
    @extend_schema(responses=serializers.VersionOut, tags=["versions"])
    def get(self, request: Request, name: str, number: str) -> Response:
        """One version of a model."""
        return Response(serializers.VersionOut(listing.version_find(name=name, number=number)).data)

    @extend_schema(request=serializers.VersionPatch, responses=serializers.VersionOut, tags=["versions"])
    def patch(self, request: Request, name: str, number: str) -> Response:
        """Set llama.cpp's parameters. A worker that runs with others finishes its requests and ends; the next load,
        at once if the model is kept loaded or asked for, has these."""
        parameters = parsed(serializers.VersionPatch, request)["parameters"]
        version = editing.version_update(name=name, number=number, parameters=parameters)
        return Response(serializers.VersionOut(version).data)


class TuningsView(ControlView):
    @extend_schema(request=None, responses={204: None}, tags=["versions"])
    def delete(self, request: Request, name: str, number: str) -> Response:
        """Forget what was measured to be fastest: it is measured again after the next load, on each machine."""
        tuning.tunings_forget(name=name, number=number)
        return Response(status=204)


class NodeListView(ControlView):
    @extend_schema(responses=serializers.NodeOut(many=True), tags=["nodes"])
    def get(self, request: Request) -> Response:
        """The machines that run a supervisor."""
        return Response(serializers.NodeOut(listing.nodes_list(), many=True).data)


class NodeView(ControlView):
    @extend_schema(responses=serializers.NodeOut, tags=["nodes"])
    def get(self, request: Request, name: str) -> Response:
        """One machine."""
        return Response(serializers.NodeOut(listing.node_find(name=name)).data)

    @extend_schema(request=serializers.NodeOrder, responses=serializers.NodeOut, tags=["nodes"])
    def patch(self, request: Request, name: str) -> Response:
        """Let a machine load models (`open`), load no more (`cordoned`), or finish what runs there and unload all
        (`draining`)."""
        duty = parsed(serializers.NodeOrder, request)["duty"]
        return Response(serializers.NodeOut(nodes.node_order(name=name, duty=duty)).data)

    @extend_schema(request=None, responses={204: None}, tags=["nodes"])
    def delete(self, request: Request, name: str) -> Response:
        """Forget a machine that is gone for good."""
        nodes.node_forget(name=name)
        return Response(status=204)


class ReplicaListView(ControlView):
    @extend_schema(responses=serializers.ReplicaOut(many=True), tags=["replicas"])
    def get(self, request: Request) -> Response:
        """Every version on every node: what is wanted, and what its supervisor last saw."""
        return Response(serializers.ReplicaOut(listing.replicas_list(), many=True).data)


def _model(name: str) -> Response:
    return Response(serializers.ControlledModelOut(listing.model_find(name=name)).data)


def _desire(name: str, values: dict[str, Any], desired: Replica.Desired) -> Response:
    version = listing.version_find(name=name, number=values.get("version"))
    services.replica_desire(node=values.get("node"), version_pk=version.pk, desired=desired)
    return Response(serializers.ReplicaOut(listing.replicas_list(version=version), many=True).data, status=202)
