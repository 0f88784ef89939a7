"""What the targets that requests are routed by (:mod:`routing.targets`) are told, and where it comes from.

ready, work, memory            each worker, as it changes
held beginnings of prompts     each worker, as they change
hit rates                      the supervisor, every second
what is left of limits         PostgreSQL, every second
latencies                      this process's requests, as they are answered
"""

from collections.abc import Callable, Iterable

from inference.gateway.replicas import View
from inference.gateway.standings import Standing
from inference.gateway.workers import WorkerConnection, WorkerNews
from inference.protocol import Caches, HeldPrefixes, ReplicaState, WorkerLoad
from quotas.modes import Level, Mode
from routing.targets import Target, Targets


class Telemetry:
    """Owned by the event loop."""

    def __init__(self, targets: Targets, candidates_changed: Callable[[], None]) -> None:
        """``candidates_changed``: some target can be chosen now that could not, or the other way round."""
        self._targets = targets
        self._candidates_changed = candidates_changed
        self._ready: frozenset[int] = frozenset()

    def heard(self, connection: WorkerConnection, news: WorkerNews) -> None:
        """A worker has told something of itself."""
        target = self._targets.find(connection.replica.version_pk)
        if target is None:
            return
        if isinstance(news, WorkerLoad):
            target.tells_work(news.running + news.waiting)
        elif isinstance(news, HeldPrefixes) and target.held is connection.held:
            self._targets.holds(target, connection.held, added=news.added, removed=news.removed)
        else:
            self._tell(target, connection)

    def accept_replicas(self, view: View) -> None:
        ready = frozenset(pk for pk, replica in view.items() if replica.state is ReplicaState.READY)
        for pk in self._ready - ready:
            if (target := self._targets.find(pk)) is not None:
                target.says(warm=False, lanes=target.lanes, told=0, cells=0.0)
                self._targets.holds(target, {}, anew=True)
        for pk in ready:
            if (target := self._targets.find(pk)) is not None and not target.warm:
                target.says(warm=True, lanes=target.lanes, told=target.told, cells=target.cells)
        if ready != self._ready:
            self._ready = ready
            self._candidates_changed()

    def keep_up(
        self,
        view: View,
        workers: Iterable[WorkerConnection],
        caches: Caches | None,
        standing: Callable[[str], Standing],
    ) -> None:
        """To be called every second: all that does not tell of itself, and whom nobody knew when they did.

        Args:
            standing: how a model stands with its limits.
        """
        self.accept_replicas(view)
        for connection in workers:
            if (target := self._targets.find(connection.replica.version_pk)) is not None:
                self._tell(target, connection)
        for cache in caches.caches if caches is not None else ():
            if cache.version_pk is not None and (target := self._targets.find(cache.version_pk)) is not None:
                prompts = cache.window_prompt_tokens
                target.caches(cache.window_cached_tokens / prompts if prompts else 0.0)
        self._keep_limits(standing)

    def _keep_limits(self, standing: Callable[[str], Standing]) -> None:
        changed = False
        for target in self._targets:
            stands = standing(target.version.model)
            exhausted = stands.mode is Mode.HARD_LIMIT
            changed |= exhausted is not target.exhausted
            target.limited(used=stands.percent / 100, late=stands.level > Level.NONE, exhausted=exhausted)
        if changed:
            self._candidates_changed()

    def _tell(self, target: Target, connection: WorkerConnection) -> None:
        if connection.closed or not connection.hello.done():
            return
        hello, load = connection.hello.result(), connection.load
        cells = connection.cache.context_tokens / hello.kv_tokens if connection.cache and hello.kv_tokens else 0.0
        told = 0 if load is None else load.running + load.waiting
        target.says(warm=target.version.pk in self._ready, lanes=hello.max_sequences, told=told, cells=cells)
        if target.held is not connection.held:
            self._targets.holds(target, connection.held, anew=True)
