"""The KV cache's budgets: who gets how much (:mod:`registry.cache.allocation`, from the configuration in SQL) and who
gives way when all of it is taken (:mod:`registry.cache.eviction`, on each node)."""
