"""Who else can answer a request that was decided on already."""

from collections.abc import Collection

import msgspec

from inference.gateway.admitted import Applicant
from registry.errors import ApiError
from routing.decision import Decision
from routing.router import Router


class Rerouting:
    """See :class:`inference.gateway.degradation.Reroute`."""

    def __init__(self, router: Router) -> None:
        self._router = router

    def to_model(self, applicant: Applicant, model: str) -> Decision | None:
        try:
            return self._router.route(msgspec.structs.replace(applicant.ask, model=model))
        except ApiError:
            return None

    def to_next(self, applicant: Applicant, tried: Collection[int]) -> Decision | None:
        version = self._router.fallback(applicant.ask, applicant.decision, tried)
        return None if version is None else msgspec.structs.replace(applicant.decision, version=version)
