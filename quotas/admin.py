"""The admin's pages: models' limits, tenants and API keys, and usage."""

from quotas import limits_admin as limits
from quotas.access import admin as access
from quotas.usage import admin as usage

__all__ = ["access", "limits", "usage"]
