"""A check on real files and real tables: what it finds, what it writes, and what it leaves alone."""

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from django.utils import timezone

from registry import services
from registry.health import selectors
from registry.health.judgement import FAILURES, RETRY_SECONDS
from registry.health.models import HealthSweep, HealthTransition, ReplicaVitals, VersionHealth
from registry.health.report import OF_FILES, Result
from registry.health.services import MOST_KEPT, health_check, history_prune, vitals_record
from registry.health.vitals import Latencies, Vitals, Window
from registry.models import Node, Replica, Version
from registry.selectors import catalogue_load, replicas_desired, revision_read
from tests.gguf_files import write_model
from tests.integration.registry.reading import Scan, version_of

NOW = 1_700_000_000.0
EVERY = 30.0

Check = Callable[..., int]


@pytest.fixture
def check(models_dir: Path, db: None) -> Check:
    """By default all, as often as wanted, 30 s apart on a clock of its own."""
    now = [NOW]

    def run(times: int = 1, **asked: object) -> int:
        looked_at = 0
        for _ in range(times):
            looked_at = health_check(models_dirs=(models_dir,), starter_model=False, now=now[0], **asked)  # type: ignore[arg-type]
            now[0] += EVERY
        return looked_at

    return run


@pytest.fixture
def tiny(scan: Scan, models_dir: Path) -> Version:
    """A model on a node, cold."""
    write_model(models_dir / "Tiny" / "model.gguf")
    scan()
    services.node_register(name="here", ram_budget_mb=1000, pid=1)
    HealthTransition.objects.all().delete()
    return version_of("Tiny")


def observe(version: Version, state: str = "ready", node: str = "here", reason: str = "") -> None:
    services.replica_observe(node=node, version_pk=version.pk, observed=state, reason=reason, pid=7)


def tell(version: Version, node: str = "here", **vitals: object) -> None:
    vitals_record(node=node, vitals=[Vitals(version_pk=version.pk, **vitals)])  # type: ignore[arg-type]


def window(requests: int, faults: int = 0) -> Window:
    return Window(requests=requests, faults=faults, first_token=Latencies((1.0, 5.0), (requests - faults, 0, 0)))


def health(version: Version) -> tuple[str, str]:
    version.refresh_from_db()
    return version.health, version.health_reason


def results(version: Version) -> dict[str, str]:
    (found,) = selectors.models_health(names=[version.model.name])
    return {check.name.value: check.result.value for check in found.checks}


def transitions(version: Version) -> list[tuple[str, str]]:
    return list(HealthTransition.objects.filter(version=version).order_by("at", "id").values_list("before", "after"))


# --- What is on disk -------------------------------------------------------------------------------------------------


def test_a_cold_model_is_only_looked_at_and_nothing_is_written(tiny: Version, check: Check) -> None:
    revision = revision_read()

    assert check(3) == 1

    assert (health(tiny), VersionHealth.objects.count()) == (("healthy", ""), 0)
    assert (revision_read(), transitions(tiny)) == (revision, [])
    assert results(tiny) == {
        "file_integrity": "passed",
        "memory_allocation": "skipped",
        "response_time": "skipped",
        "error_rate": "skipped",
    }
    assert HealthSweep.objects.get().finished_at.timestamp() == pytest.approx(NOW + 2 * EVERY)


def test_a_file_that_vanished_is_found_by_the_check_itself(tiny: Version, check: Check, models_dir: Path) -> None:
    observe(tiny)
    check()
    shutil.move(models_dir / "Tiny" / "model.gguf", models_dir.parent / "away.gguf")

    check()

    assert (health(tiny)[0], tiny.file_state) == ("unhealthy", "missing")
    assert "vanished" in health(tiny)[1]
    assert results(tiny)["file_integrity"] == "failed"
    assert [each.desired for each in replicas_desired("here")] == ["stopped"]

    check(2)
    assert health(tiny)[1].count("there is no") == 1

    shutil.move(models_dir.parent / "away.gguf", models_dir / "Tiny" / "model.gguf")
    services.models_scan(models_dirs=(models_dir,), starter_model=False)
    assert transitions(tiny) == [("healthy", "unhealthy"), ("unhealthy", "healthy")]


def test_a_gguf_replaced_on_disk_while_it_is_loaded_is_a_new_version_and_its_worker_is_to_end(
    tiny: Version, check: Check, models_dir: Path
) -> None:
    observe(tiny)
    write_model(models_dir / "Tiny" / "next.gguf", context_length=1024).replace(models_dir / "Tiny" / "model.gguf")

    check()

    assert (health(tiny)[0], tiny.file_state) == ("unhealthy", "replaced")
    assert version_of("Tiny", "1.0.1").health == "healthy"
    assert [each.desired for each in replicas_desired("here")] == ["stopped"]
    assert transitions(tiny) == [("healthy", "unhealthy")]


def test_a_loaded_gguf_cut_in_place_is_unhealthy_with_the_reason(tiny: Version, check: Check, models_dir: Path) -> None:
    observe(tiny)
    path = models_dir / "Tiny" / "model.gguf"
    os.truncate(path, path.stat().st_size // 2)

    check()

    assert (health(tiny)[0], tiny.file_state) == ("unhealthy", "incomplete")


def test_a_loaded_gguf_overwritten_without_a_trace_is_found_by_its_header(
    tiny: Version, check: Check, models_dir: Path
) -> None:
    """Of the same size, at the same time: a scan takes it for what it was."""
    path = models_dir / "Tiny" / "model.gguf"
    before = path.stat()
    content = bytearray(path.read_bytes())
    place = content.index(b"general.architecture")
    content[place : place + 8] = b"GENERAL."
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    check()
    assert health(tiny)[0] == "healthy"

    observe(tiny)
    check()

    assert (health(tiny)[0], tiny.file_state) == ("unhealthy", "present")
    observe(tiny, "cold")
    check()
    assert health(tiny)[0] == "unhealthy"


def test_a_loaded_gguf_that_can_not_be_opened_any_more_is_unhealthy(
    tiny: Version, check: Check, models_dir: Path
) -> None:
    observe(tiny)
    path = models_dir / "Tiny" / "model.gguf"
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever

    check()

    assert health(tiny)[0] == "unhealthy"
    assert "not a regular file" in health(tiny)[1]


# --- What is deployed ------------------------------------------------------------------------------------------------


def test_a_deployed_model_shows_each_check_with_its_reason_and_time(tiny: Version, check: Check) -> None:
    observe(tiny)
    tell(tiny, memory_bytes=100 << 20, window=window(50))

    check()

    (found,) = selectors.models_health(names=["Tiny"])
    assert [(each.name, each.result) for each in found.checks] == [(name, Result.PASSED) for name in OF_FILES]
    assert all(each.reason and each.checked_at == pytest.approx(NOW) for each in found.checks)
    assert "100.0 MiB of 1000.0 MiB" in found.checks[1].reason
    assert "95 %" in found.checks[2].reason


def test_errors_degrade_a_model_and_gateways_are_told_once(
    tiny: Version, check: Check, heard: Callable[[], list[str]]
) -> None:
    observe(tiny)
    tell(tiny, window=window(100, 7))
    check()
    heard()

    check(3)

    assert health(tiny) == ("degraded", "7 of 100 requests failed by the server's fault")
    assert heard() == ["catalogue"]
    assert transitions(tiny) == [("healthy", "degraded")]
    promoted = catalogue_load().models["Tiny"].promoted
    assert promoted is not None and promoted.health == "degraded"


def test_a_reason_stays_while_its_cause_does_and_the_checks_tell_the_newest(
    tiny: Version, check: Check, heard: Callable[[], list[str]]
) -> None:
    observe(tiny)
    tell(tiny, window=window(100, 7))
    check(2)
    heard()
    tell(tiny, window=window(200, 9))

    check()

    assert health(tiny)[1].startswith("7 of 100")
    (found,) = selectors.models_health(names=["Tiny"])
    assert found.checks[3].reason.startswith("9 of 200")
    assert heard() == []


def test_what_is_not_loaded_any_more_recovers_and_is_then_left_alone(tiny: Version, check: Check) -> None:
    observe(tiny)
    tell(tiny, window=window(100, 7))
    check(2)
    observe(tiny, "cold")
    tell(tiny)

    check(2)

    assert health(tiny) == ("healthy", "")
    check()
    assert VersionHealth.objects.count() == 0


def test_the_windows_of_all_nodes_are_one(tiny: Version, check: Check) -> None:
    services.node_register(name="there", ram_budget_mb=1000, pid=2)
    for node in ("here", "there"):
        observe(tiny, node=node)
        tell(tiny, node=node, window=window(10, 1))

    check(2)

    assert health(tiny) == ("degraded", "2 of 20 requests failed by the server's fault")


def test_a_node_that_is_silent_says_nothing_any_more(tiny: Version, check: Check) -> None:
    observe(tiny)
    tell(tiny, window=window(100, 7))
    Node.objects.update(last_seen_at=timezone.now() - timedelta(minutes=5))

    check(3)

    assert health(tiny) == ("healthy", "")


def test_workers_that_fail_in_a_row_keep_their_model_from_requests_for_a_while(tiny: Version, check: Check) -> None:
    observe(tiny, "failed", reason="cannot allocate memory")
    tell(tiny, failures=FAILURES)
    check()
    assert health(tiny)[0] == "unhealthy"
    assert "cannot allocate memory" in health(tiny)[1]
    assert [each.desired for each in replicas_desired("here")] == ["stopped"]

    observe(tiny, "cold")
    tell(tiny)
    check(int(RETRY_SECONDS / EVERY) + 1)

    assert health(tiny)[0] == "unknown"
    assert [each.desired for each in replicas_desired("here")] == ["on_demand"]
    observe(tiny)
    check()
    assert health(tiny) == ("healthy", "")


def test_who_asks_gets_an_answer_about_what_failed(tiny: Version, check: Check) -> None:
    observe(tiny, "failed")
    tell(tiny, failures=FAILURES)
    check()
    observe(tiny, "cold")
    tell(tiny)

    check(versions=[tiny.pk], forced=True)

    assert health(tiny)[0] == "unknown"


def test_a_long_load_is_shown(tiny: Version, check: Check) -> None:
    observe(tiny, "loading")
    Replica.objects.update(observed_at=datetime.fromtimestamp(NOW, UTC) - timedelta(minutes=2))

    check()

    assert health(tiny)[0] == "loading"


def test_a_probe_changes_nothing_of_what_runs(tiny: Version, check: Check) -> None:
    observe(tiny)
    before = Replica.objects.values().get()

    check(3)

    assert Replica.objects.values().get() == before


def test_a_supervisor_that_starts_has_told_nothing_yet(tiny: Version) -> None:
    observe(tiny)
    tell(tiny, failures=9)

    services.node_register(name="here", ram_budget_mb=1000, pid=2)

    assert ReplicaVitals.objects.count() == 0


def test_vitals_of_what_nobody_knows_are_passed_over(tiny: Version) -> None:
    vitals_record(node="here", vitals=[Vitals(version_pk=-1), Vitals(version_pk=tiny.pk)])

    assert ReplicaVitals.objects.count() == 0


def test_the_log_has_each_transition_and_under_debug_each_check(tiny: Version, check: Check) -> None:
    observe(tiny)
    tell(tiny, window=window(100, 7))

    with structlog.testing.capture_logs() as lines:
        check(3)

    details = [line for line in lines if line["event"] == "Health checked"]
    assert [line["log_level"] for line in details] == ["debug"] * 3
    assert details[0]["checks"]["error_rate"].startswith("passed: 7 of 100")
    (told,) = [line for line in lines if line["event"] == "Model degraded: Tiny"]
    assert (told["log_level"], told["before"]) == ("warning", "healthy")


# --- History ---------------------------------------------------------------------------------------------------------


def test_a_new_model_was_unknown_before_it_was_looked_at(scan: Scan, models_dir: Path) -> None:
    write_model(models_dir / "tiny.gguf")

    scan()

    assert transitions(version_of("tiny")) == [("unknown", "healthy")]


def test_history_is_kept_for_thirty_days_and_a_thousand_transitions(tiny: Version) -> None:
    old = timezone.now() - timedelta(days=31)
    HealthTransition.objects.create(version=tiny, before="healthy", after="degraded", at=old)
    HealthTransition.objects.bulk_create(
        HealthTransition(version=tiny, before="healthy", after="degraded", reason=str(number))
        for number in range(MOST_KEPT + 5)
    )

    assert history_prune() == 6

    kept = set(HealthTransition.objects.values_list("reason", flat=True))
    assert kept == {str(number) for number in range(5, MOST_KEPT + 5)}
