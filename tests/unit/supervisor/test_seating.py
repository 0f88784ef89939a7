"""A node whose memory is too small for all that is wanted, driven by hand."""

import pytest

from inference.cells import Cells
from inference.protocol import EngineParameters, ModelSpec, ReplicaState, WorkerStage, WorkerStatus
from inference.supervisor.events import (
    Demanded,
    Event,
    Revive,
    Start,
    Stop,
    Tick,
    Used,
    Weigh,
    Weighed,
    Wish,
    WishesRead,
    WorkerBusy,
    WorkerExited,
    WorkerReported,
)
from inference.supervisor.fit import Needs, Option
from inference.supervisor.reconcile import due_at, step
from inference.supervisor.replica import Desired, Phase, Policy, Replica, State, view

MIB = 1 << 20
FEWER = EngineParameters(lanes=4)


def option(mib: int, smaller: EngineParameters = EngineParameters(), less: str = "") -> Option:  # noqa: B008 - frozen
    weights = Needs(weights=mib * MIB, lanes=0, long=0, computing=0, process=0)
    return Option(needs=weights, cells=Cells(lanes=16, lane_tokens=1024, long_tokens=0), smaller=smaller, less=less)


def spec(model: str, lanes: int | None = None) -> ModelSpec:
    return ModelSpec(
        version_pk=ord(model), model=model, version="1.0.0", files=(), parameters=EngineParameters(lanes=lanes)
    )


class Memory:
    """A node with room for two models of 100 MiB, unless told otherwise; models are named by letters."""

    def __init__(self, mib: int = 200, **sizes: int) -> None:
        self.policy = Policy(ram_bytes=mib * MIB)
        self.options: dict[str, tuple[Option, ...]] = {name: (option(size),) for name, size in sizes.items()}
        self.state = State()
        self.now = 1000.0
        self.started: list[str] = []
        self.signalled: list[str] = []

    def send(self, event: Event) -> None:
        self.state, actions = step(self.state, event, self.now, self.policy)
        for action in actions:
            if isinstance(action, Start):
                self.started.append(action.spec.model)
            elif isinstance(action, Stop):
                self.signalled += [r.spec.model for r in self.replicas if r.worker == action.worker]
        for action in actions:
            if isinstance(action, Weigh):
                self.send(Weighed(action.spec, self.options.get(action.spec.model, (option(100),))))

    def demand(self, *models: str) -> None:
        for model in models:
            self.send(Demanded(spec(model)))

    def wish(self, **desired: Desired) -> None:
        self.now += 0.001
        wishes = tuple(Wish(spec(model), wish) for model, wish in desired.items())
        self.send(WishesRead(read_at=self.now, wishes=wishes))

    def load(self, *models: str) -> None:
        """Demanded, started and ready."""
        for model in models:
            self.demand(model)
            self.ready(model)

    def ready(self, model: str) -> None:
        self.send(WorkerReported(self.worker(model), WorkerStatus(stage=WorkerStage.READY)))

    def busy(self, model: str, requests: int) -> None:
        self.send(WorkerBusy(self.worker(model), requests))

    def exit(self, model: str) -> None:
        self.send(WorkerExited(self.worker(model), "exited"))

    def leave(self, model: str) -> None:
        """It has drained, is told to exit, and does."""
        self.after(self.policy.drain_settle)
        assert self.phase(model) is Phase.STOPPING
        self.exit(model)

    def after(self, seconds: float, *waiting: str) -> None:
        """Time passes; gateways repeat what they wait for."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(self.now + 1.0, end)
            self.demand(*waiting)
            self.send(Tick())

    @property
    def replicas(self) -> list[Replica]:
        return list(self.state.replicas.values())

    def __getitem__(self, model: str) -> Replica:
        return self.state.replicas[ord(model)]

    def phase(self, model: str) -> Phase:
        return self[model].phase

    def worker(self, model: str) -> int:
        worker = self[model].worker
        assert worker is not None
        return worker


# --- Weighing ---


def test_a_version_is_weighed_before_it_is_started_and_once() -> None:
    node = Memory()
    state, actions = step(node.state, Demanded(spec("A")), node.now, node.policy)
    assert actions == [Weigh(spec("A"))]
    state, actions = step(state, Demanded(spec("A")), node.now, node.policy)
    assert not actions
    state, actions = step(state, Weighed(spec("A"), (option(100),)), node.now, node.policy)
    assert isinstance(actions[0], Start)
    assert state.ram_bytes == 100 * MIB


def test_what_was_weighed_with_other_parameters_is_weighed_again() -> None:
    node = Memory()
    state, _ = step(node.state, Demanded(spec("A")), node.now, node.policy)
    state, _ = step(state, Demanded(spec("A", lanes=2)), node.now, node.policy)
    _, actions = step(state, Weighed(spec("A"), (option(100),)), node.now, node.policy)
    assert actions == [Weigh(spec("A", lanes=2))]


def test_without_a_bound_nothing_is_weighed() -> None:
    _, actions = step(State(), Demanded(spec("A")), 0.0, Policy())
    assert isinstance(actions[0], Start)


# --- Swapping ---


def test_memory_is_taken_from_the_start_until_the_exit_was_seen() -> None:
    node = Memory()
    node.demand("A", "B", "C")
    assert node.started == ["A", "B"] and node.state.ram_bytes == 200 * MIB
    node.ready("A")
    node.after(node.policy.swap.residence_most, "C")
    assert node.phase("A") is Phase.STOPPING and node.started == ["A", "B"]
    node.exit("A")
    assert node.started == ["A", "B", "C"] and node.state.ram_bytes == 200 * MIB


def test_who_waits_sees_its_place_and_what_it_waits_for() -> None:
    node = Memory()
    node.demand("A", "B", "C", "D")
    seen = view(node["D"], epoch=0.0, socket_of=str)
    assert (seen.state, seen.place) == (ReplicaState.COLD, 2)
    assert seen.reason == "it waits for 100 MB of memory"
    node.exit("A")
    assert node["C"].place == 0 and node["D"].place == 1


def test_who_gives_up_leaves_the_line() -> None:
    node = Memory()
    node.demand("A", "B", "C")
    node.after(node.policy.demand_fresh + 1)
    assert node["C"].place == 0 and node["C"].reason == ""


def test_a_model_makes_room_once_it_has_stayed_its_time_and_that_moment_is_known() -> None:
    node = Memory(100)
    node.load("A")
    node.demand("B")
    assert node.phase("A") is Phase.READY
    assert due_at(node.state, node.policy) == pytest.approx(node.now + node.policy.swap.residence_least)
    node.after(node.policy.swap.residence_least)
    assert node.phase("A") is Phase.DRAINING
    assert node["A"].reason == "others need its memory"
    node.leave("A")
    assert node.phase("B") is Phase.LOADING


def test_requests_of_a_loaded_model_are_served_before_it_goes() -> None:
    node = Memory(100)
    node.load("A")
    node.busy("A", 3)
    node.after(5.0)
    node.demand("B")
    node.after(10.0, "B")
    assert node.phase("A") is Phase.READY
    node.busy("A", 0)
    assert node.phase("A") is Phase.DRAINING


def test_one_that_is_never_idle_drains_after_its_turn_and_is_cut_off_after_a_longer_time() -> None:
    node = Memory(100)
    node.load("A")
    node.busy("A", 1)
    node.demand("B")
    node.after(node.policy.swap.turn, "B")
    assert node.phase("A") is Phase.DRAINING
    node.after(node.policy.swap_drain - 1, "B")
    assert node.phase("A") is Phase.DRAINING
    node.after(1, "B")
    assert node.phase("A") is Phase.STOPPING


def test_one_that_makes_room_is_not_taken_back_and_stands_in_line() -> None:
    node = Memory(100)
    node.load("A")
    node.after(100.0)
    node.demand("B")
    node.after(0.1, "A")
    assert node.phase("A") is Phase.DRAINING and node["A"].place == 2
    node.leave("A")
    assert (node.phase("B"), node.phase("A"), node["A"].place) == (Phase.LOADING, Phase.COLD, 1)


def test_one_that_is_taken_back_stays_until_its_requests_have_come() -> None:
    node = Memory(100)
    node.load("A")
    node.busy("A", 1)
    node.demand("B")
    node.after(node.policy.swap.turn, "B")
    node.after(node.policy.demand_fresh + 0.5, "A")
    node.demand("C")
    node.busy("A", 0)
    assert node.phase("A") is Phase.READY and node["C"].place == 1
    node.after(node.policy.swap.residence_least, "C")
    assert node.phase("A") is Phase.DRAINING


def test_it_is_taken_back_when_nobody_needs_its_memory_any_more() -> None:
    node = Memory(100)
    node.load("A")
    node.busy("A", 1)
    node.demand("B")
    node.after(node.policy.swap.turn, "B")
    node.after(node.policy.demand_fresh + 1, "A")
    assert node.phase("A") is Phase.READY


def test_the_one_that_is_used_least_leaves() -> None:
    node = Memory()
    node.load("A", "B")
    for _ in range(30):
        node.now += 1.0
        node.send(Used((ord("A"),)))
    node.demand("C")
    assert (node.phase("A"), node.phase("B")) == (Phase.READY, Phase.DRAINING)


def test_a_failed_load_gives_its_memory_back() -> None:
    node = Memory(100)
    node.demand("A", "B")
    node.send(WorkerReported(node.worker("A"), WorkerStatus(stage=WorkerStage.FAILED, reason="broken")))
    node.exit("A")
    assert node.phase("A") is Phase.FAILED and node.phase("B") is Phase.LOADING


def test_one_whose_back_off_is_over_waits_for_memory_and_not_for_the_clock() -> None:
    node = Memory(100)
    node.wish(A=Desired.RUNNING)
    node.exit("A")
    node.demand("B")
    assert node.phase("A") is Phase.FAILED and node.phase("B") is Phase.LOADING
    node.after(node["A"].retry_at - node.now, "B")
    assert node["A"].place == 1 and due_at(node.state, node.policy) == node["B"].deadline


# --- What is kept loaded ---


def test_what_is_kept_loaded_makes_others_leave_and_never_leaves_for_them() -> None:
    node = Memory(100)
    node.load("A")
    node.wish(A=Desired.ON_DEMAND, P=Desired.RUNNING)
    node.after(node.policy.swap.residence_most)
    node.leave("A")
    assert node.phase("P") is Phase.LOADING
    node.ready("P")
    node.demand("A")
    assert node.phase("A") is Phase.FAILED and "kept loaded take 100 MB" in node["A"].reason
    node.after(100.0, "A")
    assert node.phase("P") is Phase.READY


def test_what_is_refused_beside_what_is_kept_loaded_is_loaded_when_that_is_not_kept_any_more() -> None:
    node = Memory(100)
    node.wish(P=Desired.RUNNING)
    node.ready("P")
    node.demand("A")
    assert node["A"].refused
    node.wish(A=Desired.ON_DEMAND, P=Desired.ON_DEMAND)
    assert not node["A"].refused and node["A"].place == 1


def test_a_stopped_one_is_on_demand_again_from_its_start_on_not_while_it_waits() -> None:
    node = Memory(100)
    node.load("A")
    node.busy("A", 1)
    node.wish(A=Desired.ON_DEMAND, B=Desired.STOPPED)
    node.demand("B")
    assert node["B"].desired is Desired.STOPPED
    state, actions = step(node.state, WorkerExited(node.worker("A"), "crash"), node.now, node.policy)
    assert any(isinstance(action, Revive) for action in actions)
    assert state.replicas[ord("B")].desired is Desired.ON_DEMAND


# --- What can't fit ---


def test_what_can_never_fit_is_refused_at_once_with_the_arithmetic_and_nobody_leaves() -> None:
    node = Memory(A=100, X=300)
    node.load("A")
    node.after(100.0)
    node.demand("X")
    seen = view(node["X"], epoch=0.0, socket_of=str)
    assert (seen.state, seen.never_fits, seen.retry_at) == (ReplicaState.FAILED, True, None)
    assert seen.reason.startswith("it takes 300 MB (weights 300") and "this node has 200 MB" in seen.reason
    assert node.phase("A") is Phase.READY and due_at(node.state, node.policy) == node["A"].last_use + 900


def test_a_refusal_ends_with_the_parameters_that_led_to_it() -> None:
    node = Memory(X=300)
    node.demand("X")
    node.options["X"] = (option(150),)
    node.send(Demanded(spec("X", lanes=2)))
    assert node.started == ["X"]


def test_a_refused_one_that_is_stopped_is_cold() -> None:
    node = Memory(X=300)
    node.demand("X")
    node.wish(X=Desired.ON_DEMAND)
    node.wish(X=Desired.STOPPED)
    assert node.phase("X") is Phase.COLD and not node["X"].refused
    node.demand("X")
    assert node["X"].refused, "it is asked for, and can't be"
    node.after(node.policy.demand_fresh + 1)
    assert node.phase("X") is Phase.COLD


def test_what_fits_only_when_made_smaller_is_started_so_and_says_so() -> None:
    node = Memory()
    node.options["X"] = (option(300), option(150, FEWER, "4 lanes instead of 16"))
    state, _ = step(node.state, Demanded(spec("X")), node.now, node.policy)
    _, actions = step(state, Weighed(spec("X"), node.options["X"]), node.now, node.policy)
    assert actions[0] == Start(worker=1, spec=spec("X"), smaller=FEWER)
    node.load("X")
    assert node["X"].reason == "it has 4 lanes instead of 16, to fit into this node's memory"


# --- The storm ---


def test_in_a_storm_requests_are_served_in_bunches() -> None:
    """ABCDEF, one each second, memory for two: who is loaded serves what has come for it meanwhile."""
    node = Memory()
    names = "ABCDEF"
    waiting: set[str] = set()
    served = 0
    for second in range(300):
        name = names[second % len(names)]
        if node.state.replicas.get(ord(name)) is not None and node.phase(name) is Phase.READY:
            served += 1
        else:
            waiting.add(name)
        node.after(1.0, *sorted(waiting))
        for replica in node.replicas:
            if replica.phase is Phase.STOPPING:
                node.exit(replica.spec.model)
            elif replica.phase is Phase.LOADING:
                node.ready(replica.spec.model)
                waiting.discard(replica.spec.model)
    assert len(node.started) <= 150, "each load serves two requests at the least"
