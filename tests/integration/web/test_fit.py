"""What a model takes, for operators to see."""

from typing import Any

import msgspec
import pytest
from rest_framework.test import APIClient

from registry import footprints, services
from registry.footprints import Taken
from registry.models import Model, Node, Version

pytestmark = pytest.mark.usefixtures("models")

PATH = "/api/v1/models/tiny/fit"
MIB = 1 << 20


def node(ram_mb: int) -> Node:
    return services.node_register(name="node-1", ram_budget_mb=ram_mb, pid=1)


def fit(client: APIClient) -> dict[str, Any]:
    answer = client.get(PATH)
    assert answer.status_code == 200
    (one,) = answer.json()["nodes"]
    return dict(one)


def test_the_arithmetic_of_each_node_is_shown(operator: APIClient) -> None:
    node(4096)
    shown = fit(operator)
    assert (shown["node"], shown["ram_bytes"], shown["fits"], shown["measured"]) == ("node-1", 4096 * MIB, True, False)
    first = shown["ways"][0]
    parts = ("weights", "lanes", "long", "computing", "process", "learned")
    assert first["total"] == sum(first[part] for part in parts)
    assert first["weights"] == Version.objects.get(model__name="tiny").size_bytes
    assert shown["says"].startswith("it takes ")


def test_what_does_not_fit_says_why(operator: APIClient) -> None:
    node(64)
    shown = fit(operator)
    assert not shown["fits"] and "this node has 64 MB (NOPENAI_NODE_RAM_MB)" in shown["says"]


def test_what_is_kept_loaded_is_not_there_for_others(operator: APIClient) -> None:
    here = node(4096)
    other = Version.objects.exclude(model__name="tiny").first()
    assert other is not None
    services.replica_desire(node=here.name, version_pk=other.pk, desired="running")
    assert fit(operator)["kept_loaded_bytes"] > 0


def test_what_was_measured_is_part_of_it(operator: APIClient) -> None:
    here = node(4096)
    version = Version.objects.get(model__name="tiny")
    taken = Taken(version.pk, msgspec.to_builtins(version.parameters), 1000 * MIB, 1000 * MIB)
    footprints.footprint_record(node=here.name, taken=taken)
    shown = fit(operator)
    assert shown["measured"] and shown["ways"][0]["learned"] > 900 * MIB


def test_what_is_answered_elsewhere_takes_nothing_here(operator: APIClient) -> None:
    model = Model.objects.get(name="tiny")
    Version.objects.create(
        model=model, major=9, minor=0, patch=0, source=Version.Source.REMOTE, path="https://api.example.com/v1"
    )
    answer = operator.get(f"{PATH}?version=9.0.0")
    assert answer.status_code == 400
    assert "answered elsewhere" in answer.json()["error"]["message"]


def test_a_model_or_version_that_is_not_there_is_told(operator: APIClient) -> None:
    assert operator.get("/api/v1/models/none/fit").status_code == 404
    assert operator.get(f"{PATH}?version=9.9.9").status_code == 404
