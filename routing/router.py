"""A name from a request in, a decision out."""

from registry.errors import Unavailable
from routing.decision import Decision
from routing.strategies import RoundRobin, Strategy
from routing.table import AUTO, RouteTable, require_capabilities

NAMED = "named"
"""Stands for the strategy where the client left no choice."""

_MOST_REASONS = 5

_NONE: frozenset[str] = frozenset()
_KINDS: dict[str, frozenset[str]] = {kind: frozenset({kind}) for kind in ("chat", "completion", "embedding")}


class Router:
    """Owns what routing remembers between requests. ``table`` is replaced as a whole when the world changes."""

    def __init__(self, table: RouteTable, strategy: Strategy | None = None) -> None:
        self.table = table
        self._strategy: Strategy = strategy or RoundRobin()

    def route(self, model: str | None, kind: str, capabilities: frozenset[str] = _NONE) -> Decision:
        """Decide who answers.

        Args:
            model: ``<id>``, ``<id>@<version>``, ``auto``, or None for the default.
            kind: The capability that the endpoint needs.
            capabilities: What the client demands beside it.

        Raises:
            ModelNotFound, InvalidRequest: what the client named can't be had, whatever the state of things.
            Unavailable: as things stand nobody can answer.
        """
        table = self.table
        name = model or table.default
        if name != AUTO:
            candidates = table.named(name)
            require_capabilities(name, candidates[0], kind, capabilities)
            return Decision(asked=name, strategy=NAMED, candidates=candidates, index=0)

        needed = _KINDS[kind] | capabilities if capabilities else _KINDS[kind]
        pool = table.pool(needed)
        if not pool:
            raise self._nobody(table, needed)
        index = self._strategy.choose(needed, pool)
        return Decision(asked=AUTO, strategy=self._strategy.name, candidates=pool, index=index)

    def _nobody(self, table: RouteTable, needed: frozenset[str]) -> Unavailable:
        refusals = table.refusals(needed)
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
