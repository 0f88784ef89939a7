"""What gateways tell each other, by way of the supervisor, which keeps it for those that come later."""

from collections import OrderedDict, deque

from inference.protocol import Sampled, Stray, Strays

_MOST_SAMPLES = 64
_MOST_STRAYS = 16_384


class Relay:
    def __init__(self) -> None:
        self._samples: deque[Sampled] = deque(maxlen=_MOST_SAMPLES)
        self._strays: OrderedDict[tuple[str, str], Stray] = OrderedDict()
        """By route and session; the one that was told longest ago comes first."""

    def keep(self, message: Sampled | Strays) -> None:
        if isinstance(message, Sampled):
            self._samples.append(message)
            return
        for stray in message.sessions:
            self._strays[message.route, stray.session] = stray
            self._strays.move_to_end((message.route, stray.session))
            if len(self._strays) > _MOST_STRAYS:
                self._strays.popitem(last=False)

    def kept(self) -> list[Sampled | Strays]:
        by_route: dict[str, list[Stray]] = {}
        for (route, _), stray in self._strays.items():
            by_route.setdefault(route, []).append(stray)
        return [*self._samples, *(Strays(route=route, sessions=tuple(each)) for route, each in by_route.items())]
