"""Brings the tables to what a scan found. Used by one scan, inside its transaction and lock."""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from django.utils import timezone

from registry.discovery.layout import Content, Found, Number
from registry.discovery.placement import FIRST, Known, Placement, Placements, next_number
from registry.models import Model, Version
from registry.presentation import promotion

FileState = Version.FileState
HealthStatus = Version.HealthStatus

_STARTER_OFF = "the starter model is switched off (NOPENAI_STARTER_MODEL=0), its package is gone, or its id is taken"


class Settlement:
    """Every write goes through :func:`version_change` or touches only rows that differ: an idle scan writes nothing."""

    def __init__(self, placements: Placements) -> None:
        self._placements = placements
        self._models = {model.name: model for model in Model.objects.select_related("alias_of")}
        self._versions: dict[int, list[Version]] = defaultdict(list)
        for version in Version.objects.select_related("model"):
            self._versions[version.model_id].append(version)
        self._by_pk = {version.pk: version for versions in self._versions.values() for version in versions}
        self._owned = {placed.known.pk for placed in placements.placed if placed.known}
        """Versions whose file is there: no other file can be the same version."""
        self._newly_known: dict[str, Model] = {}
        self.new_versions: list[str] = []
        self.missing: list[str] = []
        self.newly_unusable: dict[str, str] = {}

    @property
    def discovered(self) -> list[str]:
        return sorted(self._newly_known)

    def settle(self) -> None:
        for known in self._placements.abandoned:
            self._abandon(known)
        self._forget_settled_conflicts()
        for placed in self._placements.placed:
            if placed.conflict:
                self._list_conflict(placed, placed.conflict)
            else:
                self._place(placed)
        for known in self._placements.gone:
            self._mark_missing(self._by_pk[known.pk], starter=known.starter)
        self._name_aliases()
        for model in self._models.values():
            promote_first(model, self._versions[model.pk])
        choose_default()

    # --- A file that has a model -------------------------------------------------------------------------------------

    def _place(self, placed: Placement) -> None:
        model = self._model(placed.model, placed.found)
        if model.starter and placed.found is not self._placements.starter:
            self._take_over_starter(model)
        version = self._by_pk.get(placed.known.pk) if placed.known else None
        if placed.found.content is None:
            self._note_fault(model, version, placed.found)
        else:
            self._put_content(model, version, placed.found, placed.found.content)

    def _note_fault(self, model: Model, version: Version | None, found: Found) -> None:
        if found.fault is None:
            return
        state = FileState.INCOMPLETE if found.fault.may_pass else FileState.INVALID
        new = version is None
        if version is None:
            version = self._create(model, found, self._number(model, found.number or FIRST))
        # While a file is being copied its reason changes with every scan; that is shown, but told once.
        if (
            new
            or version.file_state != state
            or (version.health_reason != found.fault.reason and not found.fault.may_pass)
        ):
            self.newly_unusable[model.name] = found.fault.reason
        # What never was complete has no content yet, so its size may still change.
        size = {} if version.header_digest else {"size_bytes": found.size_bytes, "modified_ns": found.modified_ns}
        version_change(
            version,
            path=found.path,
            files=list(found.files),
            file_state=state,
            health=HealthStatus.UNHEALTHY,
            health_reason=found.fault.reason,
            **size,
        )

    def _put_content(self, model: Model, version: Version | None, found: Found, content: Content) -> None:
        """The content at a path is: what was there before; or what the model had before, come back; or new."""
        if version is not None and is_content_of(version, content):
            self._show(version, found, content)
            return
        returned = self._returned(model, found, content)
        if returned is not None:
            self._show(returned, found, content)
        elif version is None or version.header_digest:
            after = (version.major, version.minor, version.patch) if version else found.number or FIRST
            returned = self._create(model, found, self._number(model, after))
            self._fill(model, returned, found, content)
        else:
            self._fill(model, version, found, content)
            return
        if version is not None:
            self._supersede(version, by=returned)

    def _returned(self, model: Model, found: Found, content: Content) -> Version | None:
        """A version of the model whose file is gone, with this content. Of several that differ in what only SHA-256
        can tell, the one of the same modification time; the background check decides."""
        same = [
            version
            for version in self._versions[model.pk]
            if version.pk not in self._owned and is_content_of(version, content)
        ]
        return min(same, key=lambda version: version.modified_ns != found.modified_ns, default=None)

    def _show(self, version: Version, found: Found, content: Content) -> None:
        self._owned.add(version.pk)
        version_show(version, path=found.path, files=list(found.files), modified_ns=found.modified_ns)
        # Derived by our rules, which may have learnt something since.
        version_change(version, capabilities=list(content.capabilities))

    def _fill(self, model: Model, version: Version, found: Found, content: Content) -> None:
        """What now is complete gets its content, for good."""
        first = not any(other.header_digest for other in self._versions[model.pk])
        version_change(version, **content_columns(content))
        self._show(version, found, content)
        if first:
            self._newly_known[model.name] = model
        else:
            self.new_versions.append(f"{model.name}@{version.number}")

    def _supersede(self, version: Version, *, by: Version) -> None:
        if not version.header_digest:
            self._delete(version)
            return
        version_replaced(version, by=by)

    # --- A file whose id belongs to another --------------------------------------------------------------------------

    def _list_conflict(self, placed: Placement, reason: str) -> None:
        """A notice rather than a model: it goes with its cause, and has no content that could not change."""
        model = self._model(placed.model, placed.found)
        versions = self._versions[model.pk]
        if versions and versions[0].file_state != FileState.CONFLICT:
            return  # a model that really is named like that
        version = versions[0] if versions else self._create(model, placed.found, FIRST)
        if version.health_reason != reason:
            self.newly_unusable[model.name] = reason
        shown = {} if placed.found.content is None else content_columns(placed.found.content)
        version_change(
            version,
            **{
                **shown,
                "header_digest": "",
                "size_bytes": placed.found.size_bytes,
                "modified_ns": placed.found.modified_ns,
                "path": placed.found.path,
                "files": list(placed.found.files),
                "file_state": FileState.CONFLICT,
                "health": HealthStatus.UNHEALTHY,
                "health_reason": reason,
            },
        )

    def _forget_settled_conflicts(self) -> None:
        standing = {placed.model for placed in self._placements.placed if placed.conflict}
        for model in list(self._models.values()):
            versions = self._versions[model.pk]
            if model.name not in standing and versions and all(v.file_state == FileState.CONFLICT for v in versions):
                self._forget(model)

    # --- Files that are gone, and models without any -----------------------------------------------------------------

    def _mark_missing(self, version: Version, *, starter: bool) -> None:
        if version.pk in self._owned:  # its content lies elsewhere now
            return
        if version.file_state != FileState.MISSING and not starter:
            self.missing.append(str(version))
        version_change(
            version,
            file_state=FileState.MISSING,
            health=HealthStatus.UNHEALTHY,
            health_reason=_STARTER_OFF if starter else f"vanished: there is no {version.path} any more",
        )

    def _abandon(self, known: Known) -> None:
        version = self._by_pk[known.pk]
        model = version.model
        self._delete(version)
        if not self._versions[model.pk]:
            self._forget(model)

    def _delete(self, version: Version) -> None:
        self._versions[version.model_id].remove(version)
        version.delete()

    def _forget(self, model: Model) -> None:
        for name in [name for name, other in self._models.items() if model.pk in (other.pk, other.alias_of_id)]:
            del self._models[name]
        self._versions.pop(model.pk, None)
        model.delete()

    # --- Models and their names --------------------------------------------------------------------------------------

    def _model(self, name: str, found: Found) -> Model:
        model = self._models.get(name)
        if model is not None and model.alias_of is not None:  # what it stood for is gone: now it is a name of its own
            self._forget(model)
            model = None
        if model is None:
            model = Model.objects.create(
                name=name, display_name=found.display_name, starter=found is self._placements.starter
            )
            self._models[name] = model
        return model

    def _take_over_starter(self, model: Model) -> None:
        """An operator's own file under the starter's id: it is a model like any other, promoted as a first version."""
        Model.objects.filter(pk=model.pk).update(starter=False, promoted=None)
        model.starter, model.promoted = False, None

    def _create(self, model: Model, found: Found, number: Number) -> Version:
        major, minor, patch = number
        version = Version.objects.create(
            model=model,
            major=major,
            minor=minor,
            patch=patch,
            path=found.path,
            files=list(found.files),
            file_state=FileState.INCOMPLETE,
            health=HealthStatus.UNHEALTHY,
        )
        self._versions[model.pk].append(version)
        return version

    def _number(self, model: Model, after: Number) -> Number:
        return next_number(((v.major, v.minor, v.patch) for v in self._versions[model.pk]), after)

    def _name_aliases(self) -> None:
        """``<Name>:<quantization>`` of what ``<Name>`` means; gone when that is of another quantization now."""
        wanted = {placed.alias: placed.model for placed in self._placements.placed if placed.alias}
        shared = {placed.model for placed in self._placements.placed if placed.found.qualified_id}
        for model in list(self._models.values()):
            if model.alias_of and model.alias_of.name in shared and wanted.get(model.name) != model.alias_of.name:
                self._forget(model)
        for alias, name in wanted.items():
            if alias not in self._models:
                self._models[alias] = Model.objects.create(name=alias, display_name=alias, alias_of=self._models[name])


def version_change(version: Version, **columns: Any) -> bool:
    """Write the columns that differ; a change of state or health is stamped with its time."""
    changed = {name: value for name, value in columns.items() if getattr(version, name) != value}
    if not changed:
        return False
    if changed.keys() & {"file_state", "health", "health_reason"}:
        changed["health_checked_at"] = timezone.now()
    for name, value in changed.items():
        setattr(version, name, value)
    version.save(update_fields=list(changed))
    return True


def version_show(version: Version, *, path: str, files: list[str], modified_ns: int) -> None:
    """Its file is there and good. Health is judged anew only if the file was the fault."""
    judged = version.file_state == FileState.PRESENT and version.health != HealthStatus.UNKNOWN
    health = {} if judged else {"health": HealthStatus.HEALTHY, "health_reason": ""}
    version_change(version, path=path, files=files, modified_ns=modified_ns, file_state=FileState.PRESENT, **health)


def version_replaced(version: Version, *, by: Version) -> None:
    version_change(
        version,
        file_state=FileState.REPLACED,
        health=HealthStatus.UNHEALTHY,
        health_reason=f"its file was replaced; the new content is version {by.number}, which serves once an operator "
        f"promotes it: {promotion(by.model.name, by.number)}",
    )


def content_columns(content: Content) -> dict[str, Any]:
    return {
        "header_digest": content.header_digest,
        "size_bytes": content.size_bytes,
        "architecture": content.architecture,
        "parameter_count": content.parameter_count,
        "quantization": content.quantization,
        "context_length": content.context_length,
        "capabilities": list(content.capabilities),
    }


def promote_first(model: Model, versions: Iterable[Version]) -> None:
    """A model without a promoted version gets the lowest that can be served."""
    if model.promoted_id is not None or model.alias_of_id is not None:
        return
    present = [version for version in versions if version.file_state == FileState.PRESENT]
    first = min(present, key=lambda version: (version.major, version.minor, version.patch), default=None)
    if first is not None:
        Model.objects.filter(pk=model.pk).update(promoted=first)
        model.promoted = first


def choose_default() -> None:
    """Where no model is the default, the first that is fit for it becomes it. The starter never does: it stands in
    while there is none (:func:`registry.selectors.catalogue_load`)."""
    if Model.objects.filter(is_default=True).exists():
        return
    fit = Model.objects.filter(
        enabled=True,
        starter=False,
        promoted__health=HealthStatus.HEALTHY,
        promoted__capabilities__contains="completion",
    )
    first = fit.order_by("created_at", "pk").first()
    if first is not None:
        Model.objects.filter(pk=first.pk).update(is_default=True)


def is_content_of(version: Version, content: Content) -> bool:
    """The cheap identity. Equal headers over other weights are told apart by SHA-256, in the background."""
    return version.header_digest == content.header_digest and version.size_bytes == content.size_bytes
