"""What the targets that requests are routed by (:mod:`routing.targets`) are told, and where it comes from.

ready, work, memory            each worker, as it changes
held beginnings of prompts     each worker, as they change
hit rates                      the supervisor, every second
what is left of limits         PostgreSQL, every second
latencies                      this process's requests, as they are answered
"""

from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping, Sequence

from inference.gateway.standings import Standing
from inference.gateway.supervisor_link import View
from inference.gateway.workers import WorkerConnection, WorkerNews
from inference.protocol import CacheView, HeldPrefixes, ReplicaState, WorkerLoad
from quotas.modes import Level, Mode
from routing.targets import Target, Targets


class Telemetry:
    """Owned by the event loop."""

    def __init__(
        self,
        targets: Targets,
        candidates_changed: Callable[[], None],
        workers_of: Callable[[int], Sequence[WorkerConnection]],
    ) -> None:
        """
        Args:
            candidates_changed: some target can be chosen now that could not, or the other way round.
            workers_of: the open connections to a version's workers, by its primary key.
        """
        self._targets = targets
        self._candidates_changed = candidates_changed
        self._workers_of = workers_of
        self._ready: frozenset[int] = frozenset()
        self._holders: dict[int, list[WorkerConnection]] = {}
        """Of which workers it is known what they hold, by their version."""

    def heard(self, connection: WorkerConnection, news: WorkerNews) -> None:
        """A worker has told something of itself."""
        pk = connection.replica.version_pk
        target = self._targets.find(pk)
        if target is None:
            return
        if isinstance(news, WorkerLoad):
            target.tells_work(sum(each.told for each in self._workers_of(pk)))
        elif isinstance(news, HeldPrefixes) and connection in self._holders.get(pk, ()):
            removed = [link for link in news.removed if link not in target.held]  # no other one holds it either
            self._targets.holds(target, target.held, added=news.added, removed=removed)
        else:
            self._tell(target)

    def accept_replicas(self, view: View) -> None:
        ready = frozenset(pk for pk, replica in view.items() if replica.state is ReplicaState.READY)
        for pk in self._ready - ready:
            if (target := self._targets.find(pk)) is not None:
                target.says(warm=False, lanes=target.lanes, told=0, cells=0.0)
                self._targets.holds(target, {}, anew=True)
            self._holders.pop(pk, None)
        for pk in ready:
            if (target := self._targets.find(pk)) is not None and not target.warm:
                target.says(warm=True, lanes=target.lanes, told=target.told, cells=target.cells)
        if ready != self._ready:
            self._ready = ready
            self._candidates_changed()

    def keep_up(
        self,
        view: View,
        caches: Iterable[CacheView],
        standing: Callable[[str], Standing],
    ) -> None:
        """To be called every second: all that does not tell of itself, and whom nobody knew when they did.

        Args:
            standing: how a model stands with its limits.
        """
        self.accept_replicas(view)
        for pk in self._ready:
            if (target := self._targets.find(pk)) is not None:
                self._tell(target)
        self._keep_hit_rates(caches)
        self._keep_limits(standing)

    def _keep_hit_rates(self, caches: Iterable[CacheView]) -> None:
        tokens: dict[int, tuple[int, int]] = {}
        for cache in caches:
            if cache.version_pk is not None:
                cached, prompts = tokens.get(cache.version_pk, (0, 0))
                tokens[cache.version_pk] = cached + cache.window_cached_tokens, prompts + cache.window_prompt_tokens
        for pk, (cached, prompts) in tokens.items():
            if (target := self._targets.find(pk)) is not None:
                target.caches(cached / prompts if prompts else 0.0)

    def _keep_limits(self, standing: Callable[[str], Standing]) -> None:
        changed = False
        for target in self._targets:
            stands = standing(target.version.model)
            exhausted = stands.mode is Mode.HARD_LIMIT
            changed |= exhausted is not target.exhausted
            target.limited(used=stands.percent / 100, late=stands.level > Level.NONE, exhausted=exhausted)
        if changed:
            self._candidates_changed()

    def _tell(self, target: Target) -> None:
        """What its workers say, together."""
        workers = [each for each in self._workers_of(target.version.pk) if each.hello.done()]
        if not workers:
            return
        target.says(
            warm=target.version.pk in self._ready,
            lanes=sum(each.hello.result().max_sequences for each in workers),
            told=sum(each.told for each in workers),
            cells=sum(each.cells for each in workers) / len(workers),
        )
        if self._holders.get(target.version.pk) != workers:
            self._holders[target.version.pk] = workers
            self._targets.holds(target, _held_by(workers), anew=True)


def _held_by(workers: Sequence[WorkerConnection]) -> Mapping[bytes, int]:
    """What any of them holds, as it changes."""
    return workers[0].held if len(workers) == 1 else ChainMap(*(each.held for each in workers))
