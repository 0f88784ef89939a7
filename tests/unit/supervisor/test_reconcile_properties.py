"""Whatever happens, in whatever order: invariants of the supervisor's decisions.

The machine plays SQL, gateways, workers and the clock. Its workers are real in one respect only: one that was killed
exits some time later, and one that was not may do anything.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from inference.cells import Cells
from inference.protocol import ModelSpec, WorkerStage, WorkerStatus
from inference.supervisor.events import (
    Action,
    Closing,
    Demanded,
    Event,
    Record,
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
    WorkerSpawned,
)
from inference.supervisor.fit import Needs, Option
from inference.supervisor.reconcile import due_at, step
from inference.supervisor.replica import Desired, Phase, Policy, State, observation

POLICY = Policy(idle_unload=50.0, load=30.0)
SPECS = [ModelSpec(version_pk=pk, model=f"m{pk}", version="1.0.0", files=(f"/m{pk}.gguf",)) for pk in (1, 2)]
TRANSIENT = (Phase.LOADING, Phase.DRAINING, Phase.STOPPING)

specs = st.sampled_from(SPECS)
picks = st.integers(0, 5)


class Supervision(RuleBasedStateMachine):
    policy = POLICY

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.now = 100.0
        self.alive: dict[int, int] = {}
        """Worker → version, of every process that exists."""
        self.killed: set[int] = set()
        self.recorded: dict[int, object] = {}
        self.unweighed: list[ModelSpec] = []

    def send(self, event: Event) -> None:
        before = self.state
        self.state, actions = step(self.state, event, self.now, self.policy)
        for action in actions:
            self.check(action, before)
        self.unweighed += [action.spec for action in actions if isinstance(action, Weigh)]

    def check(self, action: Action, before: State) -> None:
        if isinstance(action, Start):
            pk = action.spec.version_pk
            assert pk not in self.alive.values(), "a second process of one version"
            assert action.worker not in self.alive, "a worker's number was used twice"
            assert not before.closing, "a start after the end"
            known = before.replicas.get(pk)
            asked_by_operator = self.state.replicas[pk].desired is Desired.RUNNING
            if known is not None and known.phase is Phase.FAILED and not asked_by_operator:
                assert self.now >= known.retry_at, "a start before the back-off was over"
            self.alive[action.worker] = pk
        elif isinstance(action, Stop):
            assert action.worker in self.alive, "a signal to a process that is gone"
            if action.kill:
                self.killed.add(action.worker)
        elif isinstance(action, Record):
            self.recorded[action.observation.version_pk] = action.observation

    def pick(self, index: int) -> int:
        return sorted(self.alive)[index % len(self.alive)]

    @rule(spec=specs)
    def demand(self, spec: ModelSpec) -> None:
        self.send(Demanded(spec))

    @rule(wishes=st.dictionaries(st.sampled_from([0, 1]), st.sampled_from(Desired)), age=st.floats(0, 3))
    def read_sql(self, wishes: dict[int, Desired], age: float) -> None:
        named = tuple(Wish(SPECS[index], desired) for index, desired in wishes.items())
        self.send(WishesRead(read_at=self.now - age, wishes=named))

    @rule()
    def use(self) -> None:
        self.send(Used((1, 2, 3)))

    @rule(seconds=st.floats(0.01, 100))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.send(Tick())

    @precondition(lambda self: self.alive)
    @rule(index=picks, size=st.integers(0, 10**9))
    def spawned(self, index: int, size: int) -> None:
        self.send(WorkerSpawned(worker=self.pick(index), pid=1234, size_bytes=size))

    @precondition(lambda self: self.alive)
    @rule(index=picks, stage=st.sampled_from(WorkerStage), progress=st.floats(0, 2))
    def report(self, index: int, stage: WorkerStage, progress: float) -> None:
        self.send(WorkerReported(self.pick(index), WorkerStatus(stage=stage, progress=progress, reason="r")))

    @precondition(lambda self: self.alive)
    @rule(index=picks, requests=st.integers(0, 3))
    def busy(self, index: int, requests: int) -> None:
        self.send(WorkerBusy(self.pick(index), requests))

    @precondition(lambda self: self.alive)
    @rule(index=picks)
    def exit(self, index: int) -> None:
        worker = self.pick(index)
        del self.alive[worker]
        self.killed.discard(worker)
        self.send(WorkerExited(worker, "exited"))

    @rule()
    def late_news_of_a_dead_worker(self) -> None:
        self.send(WorkerReported(0, WorkerStatus(stage=WorkerStage.READY)))

    @invariant()
    def the_state_knows_every_process(self) -> None:
        owned = {r.worker: pk for pk, r in self.state.replicas.items() if r.worker is not None}
        assert owned == self.alive

    @invariant()
    def every_transient_state_has_a_deadline_and_no_other_has(self) -> None:
        for replica in self.state.replicas.values():
            assert (replica.deadline is not None) == (replica.phase in TRANSIENT)
            assert (replica.worker is not None) == (replica.phase in (*TRANSIENT, Phase.READY))

    @invariant()
    def nothing_that_is_due_is_left_undone(self) -> None:
        moment = due_at(self.state, self.policy)
        assert moment is None or moment > self.now

    @invariant()
    def nothing_more_is_to_be_done_now(self) -> None:
        assert step(self.state, Tick(), self.now, self.policy) == (self.state, [])

    @invariant()
    def every_state_that_is_not_plain_has_a_reason(self) -> None:
        for replica in self.state.replicas.values():
            if replica.phase in (*TRANSIENT, Phase.FAILED):
                assert replica.reason

    @invariant()
    def sql_was_told_what_is_now(self) -> None:
        for pk, replica in self.state.replicas.items():
            if pk in self.recorded:
                assert self.recorded[pk] == observation(replica)

    def teardown(self) -> None:
        """In the end: deaf workers that die only of SIGKILL, and nobody who asks for anything. All is cold in time."""
        ending: Event = Closing()
        if len(self.state.replicas) % 2:
            ending = WishesRead(read_at=self.now, wishes=tuple(Wish(spec, Desired.STOPPED) for spec in SPECS))
            # A demand that came before SQL was ever read overrules the first stop.
            self.send(WishesRead(read_at=self.now, wishes=tuple(Wish(spec, Desired.ON_DEMAND) for spec in SPECS)))
            self.now += 0.1
            ending = WishesRead(read_at=self.now, wishes=ending.wishes)
        self.send(ending)
        bound = self.now + self.policy.drain + 2 * self.policy.stop + 1.0
        while (moment := due_at(self.state, self.policy)) is not None:
            assert moment <= bound, "something outlives its deadline"
            self.now = moment
            self.send(Tick())
            for worker in list(self.killed):
                del self.alive[worker]
                self.killed.discard(worker)
                self.send(WorkerExited(worker, "killed by SIGKILL"))
        assert not self.alive
        assert all(replica.phase is Phase.COLD for replica in self.state.replicas.values())


class TightSupervision(Supervision):
    """Memory for one of them, or for both made smaller; the second may be too large altogether."""

    policy = replace(POLICY, ram_bytes=100, swap_drain=20.0)

    @precondition(lambda self: self.unweighed)
    @rule(size=st.sampled_from([40, 60, 100, 200]), index=picks)
    def weighed(self, size: int, index: int) -> None:
        spec = self.unweighed.pop(index % len(self.unweighed))
        self.send(Weighed(spec, (a_way(size + 20), a_way(size))))

    @rule(index=picks, size=st.sampled_from([40, 100, 200]))
    def weighed_anew(self, index: int, size: int) -> None:
        self.send(Weighed(SPECS[index % len(SPECS)], (a_way(size),)))

    @invariant()
    def no_more_memory_is_taken_than_there_is(self) -> None:
        assert self.state.ram_bytes <= 100
        holders = {pk for pk, replica in self.state.replicas.items() if replica.taken is not None}
        assert holders == set(self.alive.values()), "memory is taken by whoever has a process"

    @invariant()
    def whoever_is_refused_is_failed_and_does_not_stand_in_line(self) -> None:
        for replica in self.state.replicas.values():
            assert not replica.refused or (replica.phase is Phase.FAILED and not replica.place)
            assert not replica.place or replica.waits_since is not None


def a_way(size: int) -> Option:
    takes = Needs(weights=size, lanes=0, long=0, computing=0, process=0)
    return Option(needs=takes, cells=Cells(lanes=2, lane_tokens=64, long_tokens=0))


TestSupervision = Supervision.TestCase
TestSupervision.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestTightSupervision = TightSupervision.TestCase
TestTightSupervision.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
