"""Nodes: what they are told, what lives on which, and what becomes of those that are gone."""

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils import timezone

from registry.catalogue import NodeEntry
from registry.errors import InvalidRequest, NotFound
from registry.models import Model, Node, Replica, Version
from registry.nodes.doors import Address
from registry.nodes.selectors import AWAY_AFTER, Orders, nodes_load, orders_read
from registry.nodes.services import node_forget, node_order, nodes_expire
from registry.selectors import replicas_desired
from registry.services import node_heartbeat, node_register, replica_desire, replica_observe
from tests.gguf_files import write_model
from tests.integration.registry.reading import Scan, version_of

NAMES = ("a", "b", "c")


@pytest.fixture
def nodes(db: None) -> None:
    for name in NAMES:
        node_register(name=name, ram_budget_mb=1000, pid=1, address=f"10.0.0.{ord(name) - 96}:8090")


@pytest.fixture
def tiny(scan: Scan, models_dir: Path) -> Version:
    write_model(models_dir / "tiny.gguf")
    scan()
    return version_of("tiny")


def running_on() -> set[str]:
    """The nodes that are to keep the only model loaded."""
    return {name for name in NAMES for each in replicas_desired(name) if each.desired == "running"}


def leave(name: str) -> None:
    """As if nothing had been heard of it since just long enough."""
    Node.objects.filter(name=name).update(last_seen_at=timezone.now() - AWAY_AFTER - timedelta(seconds=1))


def test_gateways_get_to_know_where_nodes_are(nodes: None) -> None:
    node_register(name="alone", ram_budget_mb=1, pid=1)
    known = nodes_load()
    assert known["b"] == NodeEntry(name="b", address=Address("10.0.0.2", 8090))
    assert known["alone"].address is None


class TestOrders:
    def test_a_node_is_open_until_it_is_told_otherwise(self, nodes: None) -> None:
        assert orders_read("a") == orders_read("unheard of") == Orders(takes=True, empties=False)

    @pytest.mark.parametrize(("duty", "empties"), [("cordoned", False), ("draining", True)])
    def test_a_node_that_is_cordoned_or_drained_takes_no_models(self, nodes: None, duty: str, empties: bool) -> None:
        assert node_order(name="a", duty=duty).duty == duty
        assert orders_read("a") == Orders(takes=False, empties=empties)
        assert orders_read("b").takes

    def test_an_order_outlives_a_restart_of_the_node(self, nodes: None) -> None:
        node_order(name="a", duty="cordoned")
        node_register(name="a", ram_budget_mb=1000, pid=2)
        assert not orders_read("a").takes

    def test_an_unknown_node_is_answered_with_the_known_ones(self, nodes: None) -> None:
        with pytest.raises(NotFound, match="known nodes: a, b, c"):
            node_order(name="d", duty="open")


class TestHomes:
    def test_a_preloaded_model_runs_on_as_many_nodes_as_it_wants(self, nodes: None, tiny: Version) -> None:
        Model.objects.update(preload=True)
        assert len(running_on()) == 1
        Model.objects.update(replicas=2)
        assert len(running_on()) == 2
        Model.objects.update(replicas=7)
        assert running_on() == set(NAMES)

    @pytest.mark.parametrize("how", ["leave", "cordon"])
    def test_it_moves_from_a_node_that_is_gone_or_closed(self, nodes: None, tiny: Version, how: str) -> None:
        Model.objects.update(preload=True)
        (home,) = running_on()
        if how == "leave":
            leave(home)
        else:
            node_order(name=home, duty="cordoned")
        others = {name for name in NAMES if name != home}
        assert len(running_on() & others) == 1

    def test_it_goes_where_there_is_room(self, nodes: None, tiny: Version) -> None:
        Model.objects.update(preload=True)
        Node.objects.exclude(name="b").update(ram_budget_mb=0)
        assert running_on() == {"b"}

    def test_where_it_fits_nowhere_one_node_is_left_to_say_so(self, nodes: None, tiny: Version) -> None:
        Model.objects.update(preload=True)
        Node.objects.update(ram_budget_mb=0)
        assert len(running_on()) == 1

    def test_what_should_run_on_a_lost_node_runs_elsewhere_until_it_is_back(self, nodes: None, tiny: Version) -> None:
        replica_desire(node="b", version_pk=tiny.pk, desired="running")
        assert running_on() == {"b"}
        leave("b")
        assert len(running_on() - {"b"}) == 1
        node_heartbeat(name="b")
        assert running_on() == {"b"}


class TestAway:
    def test_what_ran_on_a_lost_node_is_cold(self, nodes: None, tiny: Version) -> None:
        for name in NAMES:
            replica_observe(node=name, version_pk=tiny.pk, observed="ready", pid=7)
        leave("b")
        assert nodes_expire() == 1
        assert nodes_expire() == 0
        replica = Replica.objects.get(node__name="b")
        assert (replica.observed, replica.pid, replica.reason) == ("cold", None, "its node is away")
        assert Replica.objects.filter(observed="ready").count() == 2

    def test_a_node_that_is_gone_for_good_is_forgotten(self, nodes: None, tiny: Version) -> None:
        replica_observe(node="b", version_pk=tiny.pk, observed="ready", pid=7)
        leave("b")
        node_forget(name="b")
        assert set(nodes_load()) == {"a", "c"}
        assert not Replica.objects.exists()

    def test_a_running_node_can_not_be_forgotten(self, nodes: None) -> None:
        with pytest.raises(InvalidRequest, match="is running: stop it first"):
            node_forget(name="a")
