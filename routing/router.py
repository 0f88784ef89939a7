"""A name from a request in, a decision out."""

from collections.abc import Collection

from registry.catalogue import ALL, Allowed
from registry.errors import Forbidden, Unavailable
from routing.decision import Decision
from routing.strategies import RoundRobin, Strategy
from routing.table import AUTO, RouteTable, require_capabilities

NAMED = "named"
"""Stands for the strategy where the client left no choice."""

_MOST_REASONS = 5
_MOST_NAMES = 10

_NONE: frozenset[str] = frozenset()
_KINDS: dict[str, frozenset[str]] = {kind: frozenset({kind}) for kind in ("chat", "completion", "embedding")}


class Router:
    """Owns what routing remembers between requests. ``table`` is replaced as a whole when the world changes."""

    def __init__(self, table: RouteTable, strategy: Strategy | None = None) -> None:
        self.table = table
        self._strategy: Strategy = strategy or RoundRobin()

    def route(
        self, model: str | None, kind: str, capabilities: frozenset[str] = _NONE, allowed: Allowed = ALL
    ) -> Decision:
        """Decide who answers.

        Args:
            model: ``<id>``, ``<id>@<version>``, ``auto``, or None for the default.
            kind: The capability that the endpoint needs.
            capabilities: What the client demands beside it.
            allowed: What the client may ask for.

        Raises:
            Forbidden: it may not ask for what it names.
            ModelNotFound, InvalidRequest: what the client named can't be had, whatever the state of things.
            Unavailable: as things stand nobody can answer.
        """
        table = self.table
        name = model or table.default
        if name != AUTO:
            if allowed.models is not None and not table.allows(allowed.models, name):
                raise not_allowed("model", name, allowed.models)
            candidates = table.named(name)
            require_capabilities(name, candidates[0], kind, capabilities)
            return Decision(asked=name, strategy=NAMED, candidates=candidates, index=0)

        needed = _KINDS[kind] | capabilities if capabilities else _KINDS[kind]
        if allowed.routes is not None and AUTO not in allowed.routes:
            raise not_allowed("route", AUTO, allowed.routes)
        pool = table.pool(needed, allowed.models)
        if not pool:
            raise self._nobody(table, needed, allowed.models)
        index = self._strategy.choose(needed, pool)
        return Decision(asked=AUTO, strategy=self._strategy.name, candidates=pool, index=index)

    def _nobody(self, table: RouteTable, needed: frozenset[str], models: frozenset[str] | None) -> Unavailable:
        """Nothing is said of models that the client may not ask for."""
        refusals = table.refusals(needed, models)
        if not refusals and models is not None:
            return Unavailable(
                "There is none of the models that this API key may use: have it allowed another.",
                code="no_healthy_model",
                retry_after=30,
            )
        if not refusals:
            return Unavailable("No model is registered yet: put a GGUF into the models directory.", retry_after=5)
        reasons = "; ".join(f"'{refusal.model}' {refusal.reason}" for refusal in refusals[:_MOST_REASONS])
        more = f"; and {len(refusals) - _MOST_REASONS} more" if len(refusals) > _MOST_REASONS else ""
        if any(refusal.lacks for refusal in refusals):
            wanted = ", ".join(sorted(needed))
            hint = " A chat model embeds when it is named." if needed == _KINDS["embedding"] else ""
            return Unavailable(
                f"No model that can answer now has all of: {wanted}. {reasons}{more}.{hint}",
                code="capability_unavailable",
                param="capabilities",
                retry_after=30,
            )
        return Unavailable(f"No model can answer now: {reasons}{more}.", code="no_healthy_model", retry_after=5)


def not_allowed(what: str, name: str, allowed: Collection[str]) -> Forbidden:
    """It says the same whether there is such a thing or not."""
    known = ", ".join(f"'{each}'" for each in sorted(allowed)[:_MOST_NAMES]) or "none"
    more = f" and {len(allowed) - _MOST_NAMES} more" if len(allowed) > _MOST_NAMES else ""
    return Forbidden(f"This API key may not use the {what} '{name[:200]}'; it may use: {known}{more}.", param="model")
