"""The operators' pages. Importing this package registers them."""

from registry.admin import cache, health, models, nodes, replicas, versions

__all__ = ["cache", "health", "models", "nodes", "replicas", "versions"]
