"""What every endpoint of the REST API shares: the view's base, strict input, and how answers with models are built."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView


class ControlView(APIView):
    """An endpoint of the control plane. It parses, calls a service or a selector, and serialises; nothing else."""

    role: ClassVar[str] = "operator"
    """The least role that may use it (:class:`nopenai_site.authentication.RolePermission`)."""


def bounds_told(instead: str = "") -> dict[str, Any]:
    """How a number that is out of bounds is told, for fields of the API and of forms: Django's own words leave out what
    was given.

    Args:
        instead: what else may be given: ``, or null for no limit``.
    """
    return {
        "min_value": f"%(show_value)s is too small: give at least %(limit_value)s{instead}.",
        "max_value": f"%(show_value)s is too large: give at most %(limit_value)s{instead}.",
    }


class StrictString(serializers.CharField):
    """Text. DRF's own field would turn numbers into it."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            _refuse_type("a string", data)
        return super().to_internal_value(data)


class StrictBoolean(serializers.BooleanField):
    """``true`` or ``false``. DRF's own field would understand "yes", 1 and more."""

    def to_internal_value(self, data: Any) -> bool:
        if not isinstance(data, bool):
            _refuse_type("true or false", data)
        return data


class StrictNumber(serializers.FloatField):
    """A JSON number. DRF's own field would read text, too."""

    default_error_messages = bounds_told()

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool) or not isinstance(data, int | float):
            _refuse_type("a number", data)
        return super().to_internal_value(data)


class StrictInteger(serializers.IntegerField):
    """A JSON number without a fraction. DRF's own field would read text, too."""

    default_error_messages = bounds_told()

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int):
            _refuse_type("a whole number", data)
        return super().to_internal_value(data)


class StrictChoice(serializers.ChoiceField):
    """One of some words. DRF's own field would not say which."""

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            _refuse_type("a string", data)
        if data not in self.choices:
            raise serializers.ValidationError(f"Must be one of {', '.join(self.choices)}.")
        return data


class StrictMoment(serializers.DateTimeField):
    """A moment as ISO 8601 text; without a zone it is in the server's."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, str):
            _refuse_type("a time as a string (ISO 8601)", data)
        return super().to_internal_value(data)


class StrictInput(serializers.Serializer[Any]):
    """A request's body. What it does not know it refuses, naming what it does."""

    def to_internal_value(self, data: Any) -> Any:
        if not isinstance(data, Mapping):
            raise serializers.ValidationError({"non_field_errors": ["The body must be a JSON object."]})
        allowed = [name for name, field in self.fields.items() if not field.read_only]
        unknown = [name for name in data if name not in allowed]
        if unknown:
            hint = f"Unknown field; allowed: {', '.join(allowed) or 'none'}."
            raise serializers.ValidationError(dict.fromkeys(unknown, hint))
        return super().to_internal_value(data)


class EmptyInput(StrictInput):
    """A body that says nothing: absent or ``{}``."""


def parsed(
    serializer: type[StrictInput],
    request: Request,
    *,
    wrapper: str | None = None,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, Any]:
    """The body, validated as a whole. Raises ValidationError with every fault.

    Args:
        wrapper: what the body may be wrapped in: ``{wrapper: body}``.
        beside: what may stand beside it, or in the body: the path says it already, and they must agree.
    """
    body = request.data
    if isinstance(body, Mapping):
        for name, value in beside.items():
            if body.get(name, value) != value:
                raise serializers.ValidationError({name: [f"The path says '{value}': leave it out, or say the same."]})
        body = {name: value for name, value in body.items() if name not in beside}
        if wrapper is not None and list(body) == [wrapper]:
            body = body[wrapper]
    checked = serializer(data=body)
    checked.is_valid(raise_exception=True)
    values: dict[str, Any] = checked.validated_data
    return values


def author(request: Request) -> str:
    """Who does this, for histories: how their key begins, or their user name."""
    return str(getattr(request.user, "name", ""))


def _refuse_type(wanted: str, data: Any) -> NoReturn:
    names = {bool: "a boolean", int: "a number", float: "a number", str: "a string", list: "a list", dict: "an object"}
    raise serializers.ValidationError(f"Must be {wanted}, not {names.get(type(data), 'null')}.")
