"""The admin's pages: tenants and API keys, and usage."""

from quotas.access import admin as access
from quotas.usage import admin as usage

__all__ = ["access", "usage"]
