"""llama.cpp's parameters of a version, over REST and in the tables."""

from typing import Any

import pytest
from django.db import IntegrityError, transaction
from rest_framework.test import APIClient

from registry import selectors, tuning
from registry.models import Tuning, Version
from registry.parameters import FIELDS, Number

pytestmark = pytest.mark.usefixtures("models")

PATH = "/api/v1/models/tiny/versions/1.0.0"


def patch(client: APIClient, parameters: Any) -> Any:
    return client.patch(PATH, {"parameters": parameters}, format="json")


def measured(machine: str = "Z80, 1 cores") -> None:
    version = Version.objects.get(model__name="tiny")
    step = {"parameters": {}, "decode_seconds": 0.1, "mixed_seconds": 0.2}
    tuning.tuning_record(
        version_pk=version.pk, machine=machine, under=version.parameters, parameters={"threads": 1}, measured=[step]
    )


def test_parameters_are_set_shown_and_in_the_catalogue(operator: APIClient) -> None:
    answer = patch(operator, {"threads": 2, "kv_type": "q8_0", "unified": None})
    assert answer.status_code == 200
    assert answer.json()["parameters"] == operator.get(PATH).json()["parameters"] == {"threads": 2, "kv_type": "q8_0"}
    version = selectors.catalogue_load().models["tiny"].versions["1.0.0"]
    assert version.parameters == {"threads": 2, "kv_type": "q8_0"}


def test_what_is_not_named_is_chosen_again(operator: APIClient) -> None:
    patch(operator, {"threads": 2})
    assert patch(operator, {"lanes": 4}).json()["parameters"] == {"lanes": 4}
    assert patch(operator, {}).json()["parameters"] == {}


@pytest.mark.parametrize("parameters", [{"threads": 0}, {"threads": 2, "lanes": "all"}, {"n_ctx": 5}])
def test_one_that_can_not_be_changes_nothing(operator: APIClient, parameters: dict[str, Any]) -> None:
    patch(operator, {"threads": 3})
    answer = patch(operator, parameters)
    assert answer.status_code == 400
    wrong = next(name for name in parameters if (name, parameters[name]) != ("threads", 2))
    assert answer.json()["error"]["param"] == f"parameters.{wrong}"
    assert operator.get(PATH).json()["parameters"] == {"threads": 3}


def test_a_body_without_parameters_is_refused(operator: APIClient) -> None:
    assert operator.patch(PATH, {}, format="json").status_code == 400
    assert operator.patch(PATH, {"parameters": [1]}, format="json").status_code == 400


def test_the_database_knows_every_parameter(operator: APIClient) -> None:
    values = {"flash_attention": "on", "kv_type": "f16", "unified": True, "prompt_lookup": False, "draft_cost": 0.5}
    every = {name: values.get(name, 128 if isinstance(kind, Number) else None) for name, kind in FIELDS.items()}
    answer = patch(operator, {**every, "lanes": 8, "rope_freq_scale": 0.5})
    assert answer.status_code == 200, answer.content
    assert set(answer.json()["parameters"]) == set(FIELDS)


def test_nobody_can_write_unknown_ones_past_the_service() -> None:
    wrongs: list[Any] = [{"n_ctx": 5}, [], "threads"]
    for wrong in wrongs:
        with pytest.raises(IntegrityError, match="registry_version_parameters_known"), transaction.atomic():
            Version.objects.filter(model__name="tiny").update(parameters=wrong)


def test_what_was_measured_is_shown_by_machine(operator: APIClient) -> None:
    measured()
    (shown,) = operator.get(PATH).json()["tunings"]
    assert (shown["machine"], shown["parameters"], shown["holds"]) == ("Z80, 1 cores", {"threads": 1}, True)
    assert shown["measured"][0]["decode_seconds"] == 0.1


def test_under_other_parameters_it_does_not_hold(operator: APIClient) -> None:
    measured()
    assert len(tuning.tunings_load(machine="Z80, 1 cores")) == 1
    patch(operator, {"lanes": 4})
    assert operator.get(PATH).json()["tunings"][0]["holds"] is False
    assert tuning.tunings_load(machine="Z80, 1 cores") == []
    measured()
    assert Tuning.objects.count() == 1
    assert len(tuning.tunings_load(machine="Z80, 1 cores")) == 1


def test_another_machine_knows_nothing_of_it() -> None:
    measured()
    assert tuning.tunings_load(machine="Z80, 2 cores") == []


def test_it_can_be_forgotten(operator: APIClient) -> None:
    measured()
    assert operator.delete(f"{PATH}/tunings").status_code == 204
    assert operator.get(PATH).json()["tunings"] == []
    assert operator.delete("/api/v1/models/tiny/versions/9.0.0/tunings").status_code == 404


def test_a_version_that_is_gone_is_no_fault_of_who_measured_it() -> None:
    tuning.tuning_record(version_pk=2**40, machine="Z80", under={}, parameters={}, measured=[])
    assert not Tuning.objects.exists()
