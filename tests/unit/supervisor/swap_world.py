"""A node in whole seconds that lives by :func:`inference.supervisor.swapping.plan`. Whatever is not the plan's to say,
an adversary says: who is wanted when, how long loads, requests and ends take, within their deadlines.

A world is a value, with all times relative to now, so that worlds can be compared and all of them be visited.
"""

import itertools
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from inference.supervisor.space import Space, total
from inference.supervisor.swapping import Loaded, Plan, Times, Waiting, longest_wait, plan

LONGEST_LOAD = 2
LONGEST_END = 2
"""Drain, stop and exit together."""
TIMES = Times(residence_least=1.0, residence_most=1.0, residence_loads=1.0, turn=2.0)
BOUND = longest_wait(1, load=LONGEST_LOAD, drain=LONGEST_END, stop=0, exit=0, times=TIMES)

_UNKNOWN = -99


class Is(Enum):
    ABSENT = "absent"
    LOADING = "loading"
    READY = "ready"
    GOING = "going"


class Model(NamedTuple):
    phase: Is = Is.ABSENT
    age: int = 0
    """Seconds in this phase."""
    busy: bool = False
    waits: int | None = None
    """Seconds since it is wanted."""
    left: int = 0
    """Seconds that it may still wait, by the bound."""
    held: bool = False
    """It goes for others: no request takes it back."""


World = tuple[Model, ...]


def fates(model: Model) -> list[Model]:
    """What may become of it in a second, but for what the plan says."""
    older = model._replace(age=min(model.age + 1, 3))
    if model.waits is not None:
        older = older._replace(waits=model.waits + 1, left=model.left - 1)
    if model.phase is Is.LOADING:
        ways = [Model(Is.READY, busy=True), Model()]
        return ways if model.age + 1 >= LONGEST_LOAD else [*ways, older]
    if model.phase is Is.READY:
        return [older._replace(busy=False), older._replace(busy=True)]
    if model.phase is Is.GOING:
        gone = Model(waits=older.waits, left=older.left)
        return [gone] if model.age + 1 >= LONGEST_END else [gone, older]
    return [older]


def wanted(model: Model) -> list[Model]:
    """It as it is, and with somebody who asks for it now."""
    asks = model.waits is None and model.phase in (Is.ABSENT, Is.GOING)
    return [model, model._replace(waits=0, left=_UNKNOWN)] if asks else [model]


def settled(world: World, sizes: tuple[Space, ...], has: Space) -> World:
    """After the plan, as often as it has something to say; those who have come get their deadline."""
    world = _taken_back(world)
    while True:
        said = _plan(world, sizes, has)
        after = tuple(_obey(pk, model, said, world) for pk, model in enumerate(world))
        after = _taken_back(after)
        if after == world:
            return after
        world = after


def next_worlds(world: World, sizes: tuple[Space, ...], has: Space) -> Iterator[World]:
    for fate in itertools.product(*map(fates, world)):
        for asked in itertools.product(*map(wanted, fate)):
            yield settled(asked, sizes, has)


def check(world: World, sizes: tuple[Space, ...], has: Space) -> None:
    taken = total(size for model, size in zip(world, sizes, strict=True) if model.phase is not Is.ABSENT)
    assert taken.fits(has), "more memory is taken than there is"
    for model in world:
        assert model.waits is None or model.left >= 0, "somebody waits beyond the bound"


def _taken_back(world: World) -> World:
    return tuple(
        Model(Is.READY, busy=model.busy)
        if model.phase is Is.GOING and model.waits is not None and not model.held
        else model
        for model in world
    )


def _plan(world: World, sizes: tuple[Space, ...], has: Space) -> Plan:
    waiting = [
        Waiting(pk=pk, since=-model.waits, ways=(sizes[pk],), present=model.phase is Is.GOING)
        for pk, model in enumerate(world)
        if model.waits is not None
    ]
    loaded = [
        Loaded(
            pk=pk,
            space=sizes[pk],
            going=model.phase is Is.GOING,
            ready_at=-model.age if model.phase is Is.READY else None,
            busy=int(model.busy),
        )
        for pk, model in enumerate(world)
        if model.phase is not Is.ABSENT
    ]
    return plan(waiting, loaded, has, 0.0, TIMES)


def _obey(pk: int, model: Model, said: Plan, world: World) -> Model:
    if (pk, 0) in said.start:
        assert model.phase is Is.ABSENT, "a second process of one version"
        return Model(Is.LOADING)
    if pk in said.leave and model.phase is Is.READY:
        model = Model(Is.GOING, busy=model.busy)
    model = model._replace(held=pk in said.leave)
    if pk in said.line and model.left == _UNKNOWN:
        return model._replace(left=int(BOUND) * (said.line.index(pk) + 1))
    return model
