"""From a version as the registry knows it to what a node loads: used by gateways and supervisors alike."""

import msgspec
import structlog

from inference.protocol import EngineParameters, ModelSpec
from registry import catalogue
from registry.parameters import Parameters

log = structlog.get_logger(module="models")


def model_spec(version: catalogue.Version) -> ModelSpec:
    return ModelSpec(
        version_pk=version.pk,
        model=version.model,
        version=version.version,
        files=version.files,
        parameters=engine_parameters(version.parameters),
    )


def engine_parameters(parameters: Parameters) -> EngineParameters:
    """The services let nothing else into SQL; whoever wrote past them must not stop a node from loading models."""
    try:
        return msgspec.convert(parameters, EngineParameters)
    except msgspec.ValidationError as fault:
        log.error("Parameters that no engine takes are passed over", parameters=parameters, reason=str(fault))
        return EngineParameters()
