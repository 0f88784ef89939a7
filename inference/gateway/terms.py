"""What requests of one caller to one model are held to, prepared once for all of them."""

from collections.abc import Mapping

from inference.gateway.permits import Pool
from quotas.callers import Caller
from quotas.ledger import Allowance
from quotas.limits import NO_LIMITS, ModelLimits


class Terms:
    __slots__ = ("allowance", "free", "limits", "permits", "pools")

    def __init__(self, limits: ModelLimits, caller: Caller | None) -> None:
        self.limits = limits
        """The model's."""
        self.allowance = Allowance((*limits.accounts, *(caller.accounts if caller is not None else ())))
        """Windows of the model, of its caller's key and of the key's tenant."""
        own = () if limits.permit is None else (limits.permit,)
        self.permits = own + (caller.permits if caller is not None else ())
        self.pools: tuple[Pool, ...] = ()
        """Of these permits, once one was asked for."""
        self.free = not self.allowance.accounts and limits.burst is None
        """Tokens and requests are not limited."""


class TermsBook:
    """All that were asked for since the configuration changed."""

    def __init__(self) -> None:
        self._limits: Mapping[str, ModelLimits] = {}
        self._terms: dict[tuple[str, int | None], Terms] = {}

    def retune(self, limits: Mapping[str, ModelLimits]) -> None:
        """These are all limits of models that there are now; those of callers come with them."""
        self._limits = limits
        self._terms.clear()

    def limits(self, model: str) -> ModelLimits:
        return self._limits.get(model, NO_LIMITS)

    def of(self, model: str, caller: Caller | None) -> Terms:
        who = model, None if caller is None else caller.key_pk
        terms = self._terms.get(who)
        if terms is None:
            terms = self._terms[who] = Terms(self.limits(model), caller)
        return terms
