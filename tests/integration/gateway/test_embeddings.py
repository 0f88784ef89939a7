"""/v1/embeddings between a real client's socket and a worker's."""

import asyncio
import base64
import struct
from typing import Any

import aiohttp
import pytest

from inference.protocol import ReplicaState
from quotas.callers import Caller, Role, digest
from tests.integration.gateway.conftest import StartRig
from tests.integration.gateway.rig import Rig, a_model, a_view
from tests.stub_worker import vector_of

EMBEDDING = frozenset({"embedding"})


def a_reader(name: str, pk: int, capabilities: frozenset[str] = EMBEDDING) -> Any:
    model = a_model(name, pk)
    import msgspec

    version = msgspec.structs.replace(model.promoted, capabilities=capabilities)
    return msgspec.structs.replace(model, versions={version.version: version}, promoted=version)
