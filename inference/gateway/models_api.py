"""The registry as clients read it: ``/v1/models…`` from memory, also while PostgreSQL is away."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import msgspec

from inference.gateway.asgi import JSON
from inference.gateway.auth import allowed_of
from inference.gateway.call import Call
from inference.gateway.load_teller import eta_seconds
from inference.gateway.state import GatewayState, Snapshot
from inference.gateway.supervisor_link import View, state_of
from inference.protocol import ReplicaState
from registry.catalogue import Health, Model, Version
from registry.errors import ApiError, InvalidRequest, ModelNotFound, NotFound
from registry.health.report import Check, checks_of
from registry.presentation import model_fields, promotion
from routing.router import not_allowed

_encoder = msgspec.json.Encoder()
_encode, _encode_into = _encoder.encode, _encoder.encode_into
_MODELS = "/v1/models/"
_MODEL_HEALTH = "/health/model/"


class ModelsApi:
    def __init__(self, state: GatewayState) -> None:
        self._state = state
        self._list: bytes = b""
        self._list_of: tuple[Snapshot, View] | None = None

    async def list_models(self, call: Call) -> None:
        """All models, or a page of them with ``limit`` and ``after``."""
        snapshot, query = self._state.current(), call.scope["query_string"]
        models = allowed_of(call.caller).models
        body = self._whole_list(snapshot) if not query and models is None else self._page(snapshot, query, models)
        await call.answer(200, [JSON], body)

    def describes(self, path: str) -> bool:
        """Whether ``path`` below ``/v1/models/`` is about a model that exists or is spelt like a read of one.
        ``register`` and ``default`` are the web process's unless models are called so."""
        name = path.removeprefix(_MODELS)
        return name not in ("register", "default") or (
            self._state.snapshot is not None and name in self._state.snapshot.catalogue.models
        )

    async def one(self, call: Call) -> None:
        """``{id}``, ``{id}/versions`` or ``{id}/health``. An id may contain slashes: the whole path is tried first."""
        snapshot = self._state.current()
        models = snapshot.catalogue.models
        name = call.path.removeprefix(_MODELS)
        self._require_allowed(call, name)
        if name.partition("@")[0] not in models:
            owner, _, aspect = name.rpartition("/")
            if aspect == "versions" and owner in models:
                return await self._answer(call, self._versions(models[owner]))
            if aspect == "health" and owner in models:
                return await self._answer(call, self._health(models[owner]))
        return await self._answer(call, self._one(snapshot, name))

    async def health(self, call: Call) -> None:
        """``/health/model/{id}``."""
        name = call.path.removeprefix(_MODEL_HEALTH)
        models = self._state.current().catalogue.models
        if name not in models:
            raise self._unknown(name)
        await self._answer(call, self._health(models[name]))

    async def _answer(self, call: Call, content: object) -> None:
        await call.answer(200, [JSON], _encode(content))

    def _whole_list(self, snapshot: Snapshot) -> bytes:
        """Encoded once for each change of what it shows."""
        view = self._state.replicas
        if self._list_of is None or self._list_of[0] is not snapshot or self._list_of[1] is not view:
            # One after the other into one piece of memory: what thousands of rows would take before they are written,
            # or one by one as text, is several times as much and leaves holes.
            text = bytearray(b'{"object":"list","data":[')
            for model in snapshot.catalogue.models.values():
                _encode_into(self._fields(snapshot, model), text, -1)
                text += b","
            text[-1:] = b"]}" if text.endswith(b",") else b"[]}"
            self._list = bytes(text)
            self._list_of = (snapshot, view)
        return self._list

    def _require_allowed(self, call: Call, name: str) -> None:
        """Raises Forbidden: the caller's key is for other models."""
        models, table = allowed_of(call.caller).models, self._state.router.table
        owner = name.rpartition("/")[0] if name.endswith(("/versions", "/health")) else ""
        if models is not None and not table.allows(models, name) and not (owner and table.allows(models, owner)):
            raise not_allowed("model", name, models)

    def _page(self, snapshot: Snapshot, query: bytes, models: frozenset[str] | None) -> bytes:
        parameters = parse_qs(query.decode("latin-1"), keep_blank_values=True)
        ids = list(snapshot.catalogue.models)
        if models is not None:
            ids = [model_id for model_id in ids if self._state.router.table.allows(models, model_id)]
        after = parameters.get("after", [None])[-1]
        if after is not None:
            if after not in ids:
                raise InvalidRequest(f"'after' must be the id of a model, not {after[:200]!r}.", param="after")
            ids = ids[ids.index(after) + 1 :]
        limit = _limit(parameters.get("limit", [None])[-1])
        page = ids if limit is None else ids[:limit]
        rows = [self._fields(snapshot, snapshot.catalogue.models[model_id]) for model_id in page]
        whole = {} if not query else {"has_more": len(page) < len(ids)}
        return _encode({"object": "list", "data": rows, **whole})

    def _fields(self, snapshot: Snapshot, model: Model) -> dict[str, Any]:
        counted = msgspec.structs.replace(model, use_count=snapshot.use_counts.get(model.alias_of or model.id, 0))
        shown = model.promoted or next(iter(model.versions.values()), None)
        return {
            **model_fields(counted, state=self._state_of(model.promoted)),
            "health_status": self._health_status(shown),
        }

    def _one(self, snapshot: Snapshot, name: str) -> dict[str, Any]:
        model_id, at, number = name.partition("@")
        model = snapshot.catalogue.models.get(model_id)
        if model is None:
            raise self._unknown(name)
        if not at:
            return {**self._fields(snapshot, model), "load": self._load(model.promoted)}
        if number not in model.versions:
            raise NotFound(f"The model '{model_id}' has no version '{number[:50]}'.", code="version_not_found")
        version = model.versions[number]
        return {**self._version(model, version), "load": self._load(version)}

    def _versions(self, model: Model) -> dict[str, Any]:
        return {"object": "list", "data": [self._version(model, version) for version in model.versions.values()]}

    def _version(self, model: Model, version: Version) -> dict[str, Any]:
        shown = model_fields(msgspec.structs.replace(model, promoted=version), state=self._state_of(version))
        promoted = model.promoted is not None and model.promoted.pk == version.pk
        return {
            **shown,
            "health_status": self._health_status(version),
            "id": f"{model.id}@{version.version}",
            "created": version.created,
            "model_id": model.id,
            "promoted": promoted,
            "health_reason": version.health_reason,
        }

    def _health(self, model: Model) -> dict[str, Any]:
        version = model.promoted or next(iter(model.versions.values()), None)
        replica = self._state.replicas.get(version.pk) if version else None
        reasons = [reason for reason in (_health_reason(model, version), replica.reason if replica else "") if reason]
        return {
            "model_id": model.id,
            "version": version.version if version else None,
            "health_status": self._health_status(version),
            "reasons": reasons,
            "checked_at": timestamp(self._checked_at(version)) if version else None,
            "checks": [_check_fields(check) for check in checks_of(version, self._state.health)] if version else [],
            "enabled": model.enabled,
            "state": self._state_of(version),
            "replica": None
            if replica is None
            else {
                "state": replica.state,
                "reason": replica.reason,
                "since": timestamp(replica.since),
                "progress": replica.progress,
                "retry_at": timestamp(replica.retry_at),
                "place": replica.place,
            },
        }

    def _load(self, version: Version | None) -> dict[str, Any]:
        """How its load goes, or its wait for one."""
        replica = None if version is None else self._state.replicas.get(version.pk)
        load = None if replica is None else replica.load
        eta = None if replica is None else eta_seconds(replica, time.time())
        return {
            "state": self._state_of(version),
            "stage": None if load is None else load.stage,
            "progress": None if replica is None or load is None else round(replica.progress, 3),
            "position": replica.place if replica is not None and replica.place else None,
            "eta_seconds": None if eta is None else round(eta, 1),
            "since": None if replica is None else timestamp(replica.since),
        }

    def _health_status(self, version: Version | None) -> Health:
        """As the registry has it; what is being loaded on this node is so from the first moment."""
        if version is None:
            return Health.UNKNOWN
        loading = state_of(self._state.replicas, version.pk) is ReplicaState.LOADING
        return Health.LOADING if loading and version.health is not Health.UNHEALTHY else version.health

    def _checked_at(self, version: Version) -> float | None:
        """The last time that anything was found out about it, or that nothing had changed."""
        moments = (version.health_checked_at, self._state.health.checked_at)
        return max((moment for moment in moments if moment is not None), default=None)

    def _state_of(self, version: Version | None) -> str:
        """The four states that clients know: what failed is cold, with its reason under health."""
        if version is not None and version.remote:
            return ReplicaState.READY
        state = ReplicaState.COLD if version is None else state_of(self._state.replicas, version.pk)
        return ReplicaState.COLD if state is ReplicaState.FAILED else state

    def _unknown(self, name: str) -> ModelNotFound:
        """With the nearest ids, as the router words it."""
        try:
            self._state.router.table.named(name)
        except ModelNotFound as unknown:
            return unknown
        except ApiError:
            pass  # it is known, and no page of ours all the same
        return ModelNotFound(f"The model '{name[:200]}' does not exist. GET /v1/models lists all models.")


def timestamp(seconds: float | None) -> str | None:
    """Seconds since the epoch as ISO 8601 in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check_fields(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "result": check.result,
        "reason": check.reason,
        "checked_at": timestamp(check.checked_at or None),
    }


def counts_by_state(view: View) -> Mapping[str, int]:
    counts: dict[str, int] = {}
    for replica in view.values():
        counts[replica.state] = counts.get(replica.state, 0) + 1
    return counts


def _health_reason(model: Model, version: Version | None) -> str:
    if version is None:
        return "no version is known"
    if model.promoted is None and version.health is not Health.UNHEALTHY:
        return f"no version is promoted to serve; an operator does it with: {promotion(model.id, version.version)}"
    return version.health_reason


def _limit(raw: str | None) -> int | None:
    if raw is None:
        return None
    if not (raw.isascii() and raw.isdigit() and int(raw[:9]) >= 1 and len(raw) < 9):
        raise InvalidRequest(f"'limit' must be a whole number of at least 1, not {raw[:50]!r}.", param="limit")
    return int(raw)
