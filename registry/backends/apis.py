"""Backends elsewhere over REST, for operators."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from registry.backends import selectors, services
from registry.backends.serializers import BackendKey, BackendOut, BackendRegister
from registry.rest import ControlView, parsed


class BackendListView(ControlView):
    @extend_schema(responses=BackendOut(many=True), tags=["backends"])
    def get(self, request: Request) -> Response:
        """All versions that a backend elsewhere answers."""
        return Response(BackendOut(selectors.backends_list(), many=True).data)

    @extend_schema(request=BackendRegister, responses={201: BackendOut}, tags=["backends"])
    def post(self, request: Request) -> Response:
        """Register what an OpenAI-compatible URL serves as a model, or as a new version of one. It is asked how it is;
        the answer tells."""
        values = parsed(BackendRegister, request)
        version = services.backend_register(name=values.pop("id"), **values)
        return _one(version.model.name, version.number, status=201)


class BackendView(ControlView):
    @extend_schema(responses=BackendOut, tags=["backends"])
    def get(self, request: Request, name: str, number: str) -> Response:
        """Where a version is answered, and how that is doing."""
        return _one(name, number)

    @extend_schema(request=BackendKey, responses=BackendOut, tags=["backends"])
    def patch(self, request: Request, name: str, number: str) -> Response:
        """Give it another API key. It is asked whether it takes that; the answer tells."""
        services.backend_set_key(name=name, number=number, **parsed(BackendKey, request))
        return _one(name, number)

    @extend_schema(request=None, responses={204: None}, tags=["backends"])
    def delete(self, request: Request, name: str, number: str) -> Response:
        """Forget the version and its key; the model, too, if it has no other."""
        services.backend_forget(name=name, number=number)
        return Response(status=204)


def _one(name: str, number: str, *, status: int = 200) -> Response:
    return Response(BackendOut(selectors.backend_find(name=name, number=number)).data, status=status)
