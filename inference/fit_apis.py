"""``GET /api/v1/models/{id}/fit``: what a model takes of each node's memory, and whether it can be loaded there."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from msgspec import to_builtins
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from inference.protocol import EngineParameters
from inference.specs import engine_parameters
from inference.supervisor.fit import Footprint, Option, Weight, alike, arithmetic, options, why_never
from inference.supervisor.space import Space
from inference.supervisor.swapping import way_that_fits
from inference.supervisor.tunings import merged
from inference.supervisor.weighing import weight_of
from registry import listing
from registry.errors import InvalidRequest
from registry.models import Node, Replica, Version
from registry.rest import ControlView

_MIB = 1 << 20


class WayOut(serializers.Serializer[Any]):
    """Bytes, unless they are tokens."""

    less = serializers.CharField(allow_blank=True, help_text="What it has less of than the engine would choose.")
    parameters = serializers.DictField(help_text="What makes it so.")
    lane_count = serializers.IntegerField(help_text="Short sequences that are computed together.")
    lane_tokens = serializers.IntegerField()
    context_tokens = serializers.IntegerField(help_text="The longest prompt and answer of one request.")
    weights = serializers.IntegerField(help_text="Its files.")
    lanes = serializers.IntegerField(help_text="KV cells of short sequences.")
    long = serializers.IntegerField(help_text="KV cells of long sequences.")
    computing = serializers.IntegerField(help_text="Buffers of a step.")
    process = serializers.IntegerField()
    learned = serializers.IntegerField(help_text="What was measured beside what was reckoned.")
    total = serializers.IntegerField()
    fits = serializers.BooleanField(help_text="Beside what is kept loaded on this node.")


class NodeFitOut(serializers.Serializer[Any]):
    node = serializers.CharField()
    ram_bytes = serializers.IntegerField(help_text="NOPENAI_NODE_RAM_MB.")
    kept_loaded_bytes = serializers.IntegerField(help_text="Of it, for other models that are kept loaded.")
    fits = serializers.BooleanField()
    says = serializers.CharField(help_text="How it would be loaded and what that takes, or why it can't be.")
    measured = serializers.BooleanField(help_text="A worker that computed like this was measured on this node.")
    ways = WayOut(many=True, help_text="Each smaller than the one before; the first that fits is taken.")


class FitOut(serializers.Serializer[Any]):
    model = serializers.CharField()
    version = serializers.CharField()
    nodes = NodeFitOut(many=True)


class FitView(ControlView):
    @extend_schema(
        responses=FitOut,
        parameters=[OpenApiParameter("version", str, description="The promoted one if absent.")],
        tags=["models"],
    )
    def get(self, request: Request, name: str) -> Response:
        """What loading a model takes of each node's memory, and whether it fits."""
        version = listing.version_find(name=name, number=request.query_params.get("version"))
        if version.source == Version.Source.REMOTE:
            raise InvalidRequest(f"{version} is answered elsewhere: it takes no memory here.", param="version")
        nodes = [_on(node, version) for node in Node.objects.all()]
        answer = {"model": version.model.name, "version": version.number, "nodes": nodes}
        return Response(FitOut(answer).data)


def _on(node: Node, version: Version) -> dict[str, Any]:
    ram_bytes = node.ram_budget_mb * _MIB
    kept_bytes = sum(_options(node, other)[0].ram_bytes for other in _kept_loaded(node, version))
    ways = _options(node, version)
    taken = way_that_fits([way.space for way in ways], Space(ram_bytes - kept_bytes))
    footprint = _footprint(node, version)
    return {
        "node": node.name,
        "ram_bytes": ram_bytes,
        "kept_loaded_bytes": kept_bytes,
        "fits": taken is not None,
        "says": why_never(ways, ram_bytes=ram_bytes, kept_bytes=kept_bytes) if taken is None else _loaded(ways[taken]),
        "measured": footprint is not None and alike(footprint.under, _parameters(version)),
        "ways": [_way(way, ram_bytes - kept_bytes) for way in ways],
    }


def _loaded(way: Option) -> str:
    return f"it takes {arithmetic(way)}" + (f"; it has {way.less}" if way.less else "")


def _way(way: Option, room_bytes: int) -> dict[str, Any]:
    return {
        "less": way.less,
        "parameters": to_builtins(way.smaller),
        "lane_count": way.cells.lanes,
        "lane_tokens": way.cells.lane_tokens,
        "context_tokens": way.cells.context_tokens,
        **to_builtins(way.needs),
        "total": way.ram_bytes,
        "fits": way.ram_bytes <= room_bytes,
    }


def _kept_loaded(node: Node, version: Version) -> list[Version]:
    rows = Replica.objects.filter(node=node, desired=Replica.Desired.RUNNING).exclude(version=version)
    return [row.version for row in rows.select_related("version__model").prefetch_related("version__tunings")]


def _options(node: Node, version: Version) -> tuple[Option, ...]:
    weight = weight_of(tuple(version.files))
    if not weight.shape.layers:  # it lies on another machine, or can't be read: the size is all we know
        weight = Weight(files_bytes=version.size_bytes)
    explicit = engine_parameters(version.parameters)
    return options(weight, _parameters(version), explicit=explicit, footprint=_footprint(node, version))


def _parameters(version: Version) -> EngineParameters:
    """An operator's, and what was measured to be fast under them, on whichever machine that was last."""
    explicit = engine_parameters(version.parameters)
    tunings = sorted(version.tunings.all(), key=lambda tuning: tuning.measured_at)
    holding = [tuning for tuning in tunings if tuning.under == version.parameters]
    return merged(explicit, engine_parameters(holding[-1].parameters)) if holding else explicit


def _footprint(node: Node, version: Version) -> Footprint | None:
    row = version.footprints.filter(node=node).first()
    if row is None:
        return None
    return Footprint(under=engine_parameters(row.under), ready_bytes=row.ready_bytes, peak_bytes=row.peak_bytes)
