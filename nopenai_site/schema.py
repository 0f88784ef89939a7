"""The OpenAPI document and its page, for everybody: they describe the product and hold nothing of an installation."""

from copy import deepcopy
from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from nopenai_site import data_plane

_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string", "description": "What is wrong and what to do."},
                "type": {"type": "string"},
                "param": {"type": "string", "nullable": True, "description": "The field at fault."},
                "code": {"type": "string", "nullable": True},
            },
        }
    },
}


class SchemaView(SpectacularAPIView):
    authentication_classes = ()
    permission_classes = ()


class DocsView(SpectacularSwaggerView):
    authentication_classes = ()
    permission_classes = ()


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "nopenai_site.authentication.KeyAuthentication"
    name = "API key"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer", "bearerFormat": "nok_…"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "nopenai_site.authentication.AdminSessionAuthentication"
    name = "admin session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, str]:
        return {"type": "apiKey", "in": "cookie", "name": "nopenai_session"}


class LoopbackScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """OpenAPI says “or nothing at all” by an empty requirement. It makes an operator, never an admin."""

    target_class = "nopenai_site.authentication.LoopbackAuthentication"
    name = ()  # type: ignore[assignment] # several names are allowed, none of them too

    def get_security_requirement(self, auto_schema: Any) -> dict[str, list[Any]] | list[dict[str, list[Any]]]:
        return {} if getattr(auto_schema.view, "role", None) == "operator" else []

    def get_security_definition(self, auto_schema: Any) -> list[dict[str, str]]:
        return []


def add_data_plane(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """What the gateway answers itself, beside what drf-spectacular finds among the web process's views."""
    result["paths"] = {**deepcopy(data_plane.PATHS), **result.get("paths", {})}
    return result


def describe_errors(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:
    """drf-spectacular's last step: every operation may end in OpenAI's error."""
    result.setdefault("components", {}).setdefault("schemas", {})["Error"] = _ERROR
    reference = {"schema": {"$ref": "#/components/schemas/Error"}}
    answer = {"description": "Anything but success.", "content": {"application/json": reference}}
    for operations in result.get("paths", {}).values():
        for operation in operations.values():
            operation.setdefault("responses", {})["default"] = answer
    return result
