"""The admin's pages: tenants and API keys."""

from quotas.access import admin as access

__all__ = ["access"]
