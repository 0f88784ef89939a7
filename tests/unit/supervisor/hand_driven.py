"""A supervisor's decisions, driven by hand: events in, actions out, a clock that only we move."""

from typing import Any

from inference.protocol import ModelSpec, ReplicaState, WorkerStage, WorkerStatus
from inference.supervisor.events import (
    Action,
    Demanded,
    Event,
    Record,
    Start,
    Stop,
    Tick,
    Wish,
    WishesRead,
    WorkerExited,
    WorkerReported,
)
from inference.supervisor.reconcile import due_at, step
from inference.supervisor.replica import Desired, Phase, Policy, Replica, State

SPEC = ModelSpec(version_pk=7, model="Tiny", version="1.0.0", files=("/models/Tiny.gguf",))
POLICY = Policy()


class Node:
    """A supervisor's state and the actions of its last step."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.state = State()
        self.now = 1000.0
        self.did: list[Action] = []

    def send(self, event: Event, after: float = 0.0) -> list[Action]:
        self.now += after
        self.state, self.did = step(self.state, event, self.now, self.policy)
        return self.did

    def pass_time(self) -> float:
        """Jump to the next moment at which time alone changes something; returns how long that took."""
        moment = due_at(self.state, self.policy)
        assert moment is not None, "nothing is due"
        elapsed = moment - self.now
        self.send(Tick(), after=elapsed)
        return elapsed

    def demand(self, after: float = 0.0) -> list[Action]:
        return self.send(Demanded(SPEC), after)

    def desire(self, desired: Desired, after: float = 1.0) -> list[Action]:
        self.now += after
        return self.send(WishesRead(read_at=self.now, wishes=(Wish(SPEC, desired),)))

    def report(self, stage: WorkerStage, **fields: Any) -> list[Action]:
        return self.send(WorkerReported(self.worker, WorkerStatus(stage=stage, **fields)))

    def ask(self) -> None:
        """A demand, and SQL has been read since: it knows of no stop."""
        self.demand()
        self.desire(Desired.ON_DEMAND, after=0.0)

    def load(self) -> None:
        self.ask()
        self.report(WorkerStage.READY)

    def exit(self, reason: str = "killed by SIGKILL", after: float = 0.0) -> list[Action]:
        return self.send(WorkerExited(self.worker, reason), after)

    @property
    def replica(self) -> Replica:
        return self.state.replicas[SPEC.version_pk]

    @property
    def phase(self) -> Phase:
        return self.replica.phase

    @property
    def worker(self) -> int:
        assert self.replica.worker is not None
        return self.replica.worker

    @property
    def starts(self) -> list[Start]:
        return [action for action in self.did if isinstance(action, Start)]

    @property
    def stops(self) -> list[bool]:
        """True for each SIGKILL, False for each SIGTERM."""
        return [action.kill for action in self.did if isinstance(action, Stop)]

    @property
    def recorded(self) -> list[ReplicaState]:
        return [action.observation.observed for action in self.did if isinstance(action, Record)]
