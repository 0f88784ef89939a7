"""The operators' pages. Importing this package registers them."""

from registry.admin import cache, models, nodes, replicas, versions

__all__ = ["cache", "models", "nodes", "replicas", "versions"]
