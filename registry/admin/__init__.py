"""The operators' pages. Importing this package registers them."""

from registry.admin import backends, cache, health, models, nodes, replicas, versions

__all__ = ["backends", "cache", "health", "models", "nodes", "replicas", "versions"]
