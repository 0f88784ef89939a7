"""The tables of what exists: models, versions, nodes, replicas. Those of the KV cache are in :mod:`registry.cache`,
those of health in :mod:`registry.health`.

Writes go through :mod:`registry.services`; invariants are database constraints, so that the admin, a shell and a
migration can't break them either. Migration ``0002`` adds those that Django has no words for: a promoted version is of
its own model, content is immutable, and every change is announced to the gateways, so no writer can forget to.
"""

from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from registry.backends.models import RemoteBackend
from registry.cache.models import CacheCeiling, CacheRevision, CacheShare, CacheUse, SharedPrompt
from registry.catalogue import Health
from registry.health.models import HealthSweep, HealthTransition, ReplicaVitals, VersionHealth
from registry.schedules.models import WarmSchedule

__all__ = [
    "MODEL_ID_PATTERN",
    "CacheCeiling",
    "CacheRevision",
    "CacheShare",
    "CacheUse",
    "Footprint",
    "HealthSweep",
    "HealthTransition",
    "LoadTime",
    "Model",
    "Node",
    "RemoteBackend",
    "Replica",
    "ReplicaVitals",
    "SharedPrompt",
    "Tuning",
    "Usage",
    "Version",
    "VersionHealth",
    "WarmSchedule",
]

MODEL_ID_PATTERN = r"\A[^\s/@:][^\s@]*\Z"
"""An id may contain ``/`` and ``:`` (``org/name:Q4_K_M``), but neither white space nor ``@``, which precedes a version.

Anchored by ``\\A`` and ``\\Z``, which Python and PostgreSQL read alike; Python's ``$`` lets a line feed through."""

_SHA256_OR_NOTHING = r"\A([0-9a-f]{64})?\Z"


class Model(models.Model):
    """A name that clients can ask for."""

    id = models.BigAutoField(primary_key=True)
    name = models.CharField(
        "id",
        max_length=200,
        unique=True,
        validators=[RegexValidator(MODEL_ID_PATTERN, "No white space, no @, and no leading / or :")],
        help_text="What clients put into the request's “model” field.",
    )
    display_name = models.CharField(max_length=200, blank=True)
    enabled = models.BooleanField(default=True, help_text="A disabled model answers no request.")
    preload = models.BooleanField(default=False, help_text="Load at start and keep loaded.")
    replicas = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1)],
        help_text="On how many nodes it is loaded, where there are so many.",
    )
    is_default = models.BooleanField(default=False, help_text="Answers requests that name no model.")
    starter = models.BooleanField(
        default=False, editable=False, help_text="The built-in model, served while there is no other."
    )
    extra_capabilities = models.JSONField(
        default=list, blank=True, help_text='Beyond what the GGUF says, as a list of words: ["arabic_nlp"].'
    )
    promoted = models.ForeignKey(
        "Version",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        help_text="The version that the bare id means.",
    )
    alias_of = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        editable=False,
        on_delete=models.CASCADE,
        related_name="aliases",
        help_text="Another name of that model: it has no versions of its own.",
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(
                fields=["is_default"], condition=Q(is_default=True), name="registry_model_one_default"
            ),
            models.UniqueConstraint(fields=["starter"], condition=Q(starter=True), name="registry_model_one_starter"),
            models.CheckConstraint(condition=Q(name__regex=MODEL_ID_PATTERN), name="registry_model_name_form"),
            models.CheckConstraint(condition=Q(replicas__gte=1), name="registry_model_some_replica"),
            models.CheckConstraint(
                condition=Q(alias_of__isnull=True)
                | Q(promoted__isnull=True, is_default=False, preload=False, starter=False) & ~Q(alias_of=F("id")),
                name="registry_model_alias_bare",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Version(models.Model):
    """An immutable content of a model. Once ``header_digest`` is set, its content columns can't change (trigger)."""

    class Source(models.TextChoices):
        DISCOVERED = "discovered"
        REGISTERED = "registered"
        REMOTE = "remote", "remote (a backend elsewhere)"

    class FileState(models.TextChoices):
        PRESENT = "present"
        INCOMPLETE = "incomplete", "incomplete (still being copied, or truncated)"
        INVALID = "invalid", "not a usable GGUF"
        MISSING = "missing", "vanished"
        REPLACED = "replaced", "replaced by other content"
        CONFLICT = "conflict", "its id belongs to another file"

    class HealthStatus(models.TextChoices):
        UNKNOWN = Health.UNKNOWN.value
        HEALTHY = Health.HEALTHY.value
        DEGRADED = Health.DEGRADED.value
        UNHEALTHY = Health.UNHEALTHY.value
        LOADING = Health.LOADING.value

    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="versions")
    major = models.PositiveIntegerField()
    minor = models.PositiveIntegerField()
    patch = models.PositiveIntegerField()
    source = models.CharField(max_length=16, choices=Source.choices, default=Source.DISCOVERED)
    path = models.TextField(help_text="The file or folder, absolute.")
    files = models.JSONField(default=list, help_text="Absolute paths of the GGUF, its shards in order.")
    size_bytes = models.BigIntegerField(default=0)
    modified_ns = models.BigIntegerField(default=0, help_text="Newest modification time of its files.")
    header_digest = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the GGUF header.")
    sha256 = models.CharField(max_length=64, blank=True, help_text="Of the whole content, computed in the background.")
    hashed_modified_ns = models.BigIntegerField(
        null=True, blank=True, editable=False, help_text="The modification time for which sha256 was last found true."
    )

    architecture = models.CharField(max_length=64, blank=True)
    parameter_count = models.BigIntegerField(null=True, blank=True)
    quantization = models.CharField(max_length=32, blank=True)
    context_length = models.BigIntegerField(null=True, blank=True)
    capabilities = models.JSONField(default=list, help_text="What the GGUF says it can do.")

    parameters = models.JSONField(
        default=dict,
        blank=True,
        help_text="llama.cpp's, as operators set them (registry.parameters); what is missing is chosen.",
    )

    file_state = models.CharField(max_length=16, choices=FileState.choices, default=FileState.PRESENT)
    health = models.CharField(max_length=16, choices=HealthStatus.choices, default=HealthStatus.UNKNOWN)
    health_reason = models.TextField(blank=True)
    health_checked_at = models.DateTimeField(null=True, blank=True)
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        ordering = ["model", "-major", "-minor", "-patch"]
        constraints = [
            models.UniqueConstraint(fields=["model", "major", "minor", "patch"], name="registry_version_once"),
            models.CheckConstraint(condition=Q(size_bytes__gte=0), name="registry_version_size"),
            models.CheckConstraint(
                condition=Q(header_digest__regex=_SHA256_OR_NOTHING) & Q(sha256__regex=_SHA256_OR_NOTHING),
                name="registry_version_digest_form",
            ),
            models.CheckConstraint(
                condition=Q(source__in=["discovered", "registered", "remote"]), name="registry_version_source_known"
            ),
            models.CheckConstraint(
                condition=~Q(source="remote") | Q(files=[], size_bytes=0), name="registry_version_remote_has_no_file"
            ),
            models.CheckConstraint(
                condition=Q(file_state__in=["present", "incomplete", "invalid", "missing", "replaced", "conflict"]),
                name="registry_version_file_state_known",
            ),
            models.CheckConstraint(
                condition=Q(health__in=[state.value for state in Health]), name="registry_version_health_known"
            ),
            models.CheckConstraint(
                condition=Q(file_state="present") | Q(health="unhealthy"), name="registry_version_no_file_no_health"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model.name}@{self.number}"

    @property
    def number(self) -> str:
        return f"{self.major}.{self.minor}.{self.patch}"

    @property
    def servable(self) -> bool:
        """Whether its model is enabled and its file can be loaded, as far as is known."""
        return (
            self.model.enabled
            and self.file_state == self.FileState.PRESENT
            and self.health != self.HealthStatus.UNHEALTHY
        )


class Tuning(models.Model):
    """What a worker found to be fastest for a version on a machine. Machines of one kind share it."""

    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="tunings")
    machine = models.CharField(max_length=300, help_text="CPU, cores and llama.cpp.")
    under = models.JSONField(default=dict, help_text="The version's parameters when it was measured.")
    parameters = models.JSONField(default=dict, help_text="What is faster than the engine's choice.")
    measured = models.JSONField(default=list, help_text="As inference.protocol.Measured.")
    measured_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["version", "machine"]
        constraints = [models.UniqueConstraint(fields=["version", "machine"], name="registry_tuning_once")]

    def __str__(self) -> str:
        return f"{self.version} on {self.machine}"

    @property
    def holds(self) -> bool:
        """It was measured under the parameters that are set now."""
        return bool(self.under == self.version.parameters)


class Footprint(models.Model):
    """The memory that the last worker of a version took on a node, beside its weights and its cache."""

    node = models.ForeignKey("Node", on_delete=models.CASCADE, related_name="footprints")
    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="footprints")
    under = models.JSONField(default=dict, help_text="The parameters that it computed with, measured ones included.")
    ready_bytes = models.BigIntegerField(help_text="When it had become ready.")
    peak_bytes = models.BigIntegerField(help_text="The most that was seen.")
    measured_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["version", "node"]
        constraints = [models.UniqueConstraint(fields=["node", "version"], name="registry_footprint_once")]

    def __str__(self) -> str:
        return f"{self.version} on {self.node}"


class LoadTime(models.Model):
    """How long the last loads of a version took on a node, from one tier."""

    node = models.ForeignKey("Node", on_delete=models.CASCADE, related_name="load_times")
    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="load_times")
    tier = models.CharField(max_length=16, help_text="disk, page_cache or warm.")
    samples = models.JSONField(default=list, help_text="As inference.protocol.LoadSeconds.")
    measured_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["version", "node", "tier"]
        constraints = [
            models.UniqueConstraint(fields=["node", "version", "tier"], name="registry_loadtime_once"),
        ]

    def __str__(self) -> str:
        return f"{self.version} on {self.node} from {self.tier}"


class Usage(models.Model):
    """How often a model was asked for. Apart from :class:`Model`, so that counting announces no change."""

    model = models.OneToOneField(Model, primary_key=True, on_delete=models.CASCADE, related_name="usage")
    use_count = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.model.name}: {self.use_count}"


class Node(models.Model):
    """A machine that runs a supervisor."""

    class Duty(models.TextChoices):
        OPEN = "open", "open (takes models)"
        CORDONED = "cordoned", "cordoned (loads no more models)"
        DRAINING = "draining", "draining (unloads what it has, and loads no more)"

    name = models.CharField(max_length=200, unique=True)
    address = models.CharField(
        max_length=300, blank=True, editable=False, help_text="host:port of its door; empty: no other node reaches it."
    )
    duty = models.CharField(max_length=16, choices=Duty.choices, default=Duty.OPEN)
    ram_budget_mb = models.PositiveIntegerField(default=0)
    disk_bytes = models.BigIntegerField(
        null=True,
        editable=False,
        help_text="Free on the disk of its data directory, its cached blocks counted as free; empty until it tells.",
    )
    supervisor_pid = models.PositiveIntegerField(null=True, blank=True)
    started_at = models.DateTimeField(null=True, blank=True)
    last_seen_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.CheckConstraint(
                condition=Q(duty__in=["open", "cordoned", "draining"]), name="registry_node_duty_known"
            ),
        ]

    def __str__(self) -> str:
        return self.name


class Replica(models.Model):
    """A version on a node: what is wanted (operators) and what is (its supervisor)."""

    class Desired(models.TextChoices):
        ON_DEMAND = "on_demand", "on demand"
        RUNNING = "running", "running (pinned)"
        STOPPED = "stopped", "stopped (until the next request)"

    class Observed(models.TextChoices):
        COLD = "cold"
        LOADING = "loading"
        READY = "ready"
        DRAINING = "draining"
        FAILED = "failed"

    node = models.ForeignKey(Node, on_delete=models.CASCADE, related_name="replicas")
    version = models.ForeignKey(Version, on_delete=models.CASCADE, related_name="replicas")
    desired = models.CharField(max_length=16, choices=Desired.choices, default=Desired.ON_DEMAND)
    desired_at = models.DateTimeField(
        null=True, editable=False, help_text="When an operator said so last; empty: nobody has."
    )
    observed = models.CharField(max_length=16, choices=Observed.choices, default=Observed.COLD, editable=False)
    reason = models.TextField(blank=True, editable=False)
    pid = models.PositiveIntegerField(null=True, blank=True, editable=False)
    restarts = models.PositiveIntegerField(default=0, editable=False)
    observed_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["node", "version"]
        constraints = [
            models.UniqueConstraint(fields=["node", "version"], name="registry_replica_once"),
            models.CheckConstraint(
                condition=Q(desired__in=["on_demand", "running", "stopped"]), name="registry_replica_desired_known"
            ),
            models.CheckConstraint(
                condition=Q(observed__in=["cold", "loading", "ready", "draining", "failed"]),
                name="registry_replica_observed_known",
            ),
            models.CheckConstraint(
                condition=Q(pid__isnull=True) | Q(observed__in=["loading", "ready", "draining"]),
                name="registry_replica_pid_only_while_alive",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.version} on {self.node}"
