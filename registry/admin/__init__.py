"""The operators' pages. Importing this package registers them."""

from registry.admin import models, nodes, replicas, versions

__all__ = ["models", "nodes", "replicas", "versions"]
