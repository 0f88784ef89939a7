"""Parameters that change while a worker runs: branches of the decision tree, driven by hand."""

from msgspec.structs import replace

from inference.protocol import EngineParameters, WorkerStage
from inference.supervisor.events import (
    Action,
    Demanded,
    Start,
    Tick,
    Wish,
    WishesRead,
    WorkerBusy,
)
from inference.supervisor.replica import Desired, Phase
from tests.unit.supervisor.hand_driven import SPEC, Node

OTHERS = replace(SPEC, parameters=EngineParameters(threads=1))


def change_parameters(node: Node, desired: Desired = Desired.ON_DEMAND) -> list[Action]:
    node.now += 1
    return node.send(WishesRead(read_at=node.now, wishes=(Wish(OTHERS, desired),)))


def test_a_worker_with_parameters_of_before_finishes_what_it_has_and_ends(node: Node) -> None:
    node.load()
    node.send(WorkerBusy(node.worker, 1))
    change_parameters(node)
    assert (node.phase, node.replica.reason) == (Phase.DRAINING, "its parameters were changed")
    node.demand()
    assert node.phase is Phase.DRAINING, "whoever asks waits for the next worker"
    node.send(WorkerBusy(node.worker, 0), after=1)
    assert node.stops == [False]
    node.exit()
    assert node.starts == [Start(worker=2, spec=OTHERS)]


def test_without_a_demand_the_new_parameters_wait_for_the_next_one(node: Node) -> None:
    node.load()
    change_parameters(node)
    node.send(Tick(), after=1)
    assert node.exit() and node.phase is Phase.COLD
    node.send(Demanded(OTHERS))
    assert node.starts == [Start(worker=2, spec=OTHERS)]


def test_what_is_kept_loaded_loads_again_at_once(node: Node) -> None:
    node.desire(Desired.RUNNING)
    node.report(WorkerStage.READY)
    change_parameters(node, Desired.RUNNING)
    node.send(Tick(), after=1)
    node.exit()
    assert node.starts == [Start(worker=2, spec=OTHERS)]


def test_a_load_with_parameters_of_before_is_not_waited_for(node: Node) -> None:
    node.ask()
    change_parameters(node)
    assert node.stops == [False]


def test_parameters_that_are_set_back_in_time_leave_the_worker_as_it_was(node: Node) -> None:
    node.load()
    change_parameters(node)
    node.demand()
    node.desire(Desired.ON_DEMAND, after=0.1)
    assert node.phase is Phase.READY


def test_after_a_failed_load_new_parameters_are_tried_at_once(node: Node) -> None:
    node.desire(Desired.RUNNING)
    for _ in range(4):
        node.report(WorkerStage.FAILED, reason="they can't be")
        node.exit()
        if node.phase is Phase.FAILED:
            node.pass_time()
    node.report(WorkerStage.FAILED, reason="they can't be")
    node.exit()
    assert node.phase is Phase.FAILED
    change_parameters(node, Desired.RUNNING)
    assert node.starts == [Start(worker=node.worker, spec=OTHERS)]
