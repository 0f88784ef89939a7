"""``kill -9`` of anything: no orphan, and it serves again."""

import signal
from collections.abc import Callable, Iterator

import pytest

from tests.installation import Installation, running_installation
from tests.waiting import wait_until

Maker = Callable[..., Installation]


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One installation for all murders of single processes: it has to recover from each anyway."""
    with running_installation(tmp_path_factory.mktemp("victim"), NOPENAI_GATEWAY_WORKERS="2") as installation:
        yield installation


@pytest.mark.parametrize("name", ["gateway", "web", "supervisor", "postgres", "redis", "celery", "beat"])
def test_a_killed_child_is_started_again_without_orphans(victim: Installation, name: str) -> None:
    before = set(victim.children(name))
    victim.kill(name)
    wait_until(lambda: bool(victim.children(name)) and not before & set(victim.children(name)), 30)
    victim.wait_ready()
    record = victim.wait_for_log(lambda r: r["module"] == "up" and r["message"].startswith(f"{name} was killed"))
    assert record["level"] == "ERROR"


def test_while_a_killed_gateway_starts_again_connections_wait_and_are_served(victim: Installation) -> None:
    before = set(victim.children("gateway"))
    victim.kill("gateway")
    wait_until(lambda: not before & victim.processes().keys(), 5)
    assert victim.get("/health/live", timeout=30)[0] == 200


def test_workers_die_with_the_gateways_master(victim: Installation) -> None:
    wait_until(lambda: len(victim.children("gateway")) == 3, 10)
    workers = set(victim.children("gateway")) - {victim.child("gateway")}
    victim.kill("gateway")
    wait_until(lambda: not workers & victim.processes().keys(), 5)


def test_when_up_is_killed_all_die_and_the_next_start_is_clean(own_installation: Maker) -> None:
    installation = own_installation()
    installation.start()
    installation.wait_started()
    installation.kill("up")
    assert installation.wait_exit() == -signal.SIGKILL
    installation.start()  # at once: it waits for what is still on its way out
    installation.wait_started()
    assert installation.get("/health/ready")[0] == 200
    installation.kill("up")
    installation.wait_gone(30)
