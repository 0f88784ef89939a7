"""Paths of limits, tenants, keys and usage."""

from django.urls import include, path

from quotas import apis
from quotas.access import apis as access
from quotas.usage import apis as usage
from registry import converters  # noqa: F401 (registers <name:…>)

_quotas = [
    path("quotas/<name:name>/report", apis.QuotaReportView.as_view(), name="quota-report"),
    path("quotas/<name:name>/revisions", apis.QuotaRevisionListView.as_view(), name="quota-revisions"),
    path("quotas/<name:name>/revisions/<int:number>/restore", apis.QuotaRestoreView.as_view(), name="quota-restore"),
    path("quotas/<name:name>", apis.QuotaView.as_view(), name="quota"),
]
"""The user guide's paths; under /api/v1 they are there, too."""

urlpatterns = [
    *_quotas,
    path("api/v1/", include(_quotas)),
    path("api/v1/emergency", apis.EmergencyView.as_view(), name="emergency"),
    path("api/v1/tenants", access.TenantListView.as_view(), name="tenants"),
    path("api/v1/tenants/<name:name>/erase-cache", access.TenantEraseCacheView.as_view(), name="tenant-erase-cache"),
    path("api/v1/shared-cache/erase", access.SharedCacheEraseView.as_view(), name="shared-cache-erase"),
    path("api/v1/tenants/<name:name>", access.TenantView.as_view(), name="tenant"),
    path("api/v1/keys", access.KeyListView.as_view(), name="keys"),
    path("api/v1/keys/<int:pk>", access.KeyView.as_view(), name="key"),
    path("api/v1/keys/<int:pk>/revoke", access.KeyRevokeView.as_view(), name="key-revoke"),
    path("api/v1/keys/<int:pk>/rotate", access.KeyRotateView.as_view(), name="key-rotate"),
    path("api/v1/usage", usage.UsageView.as_view(), name="usage"),
    path("api/v1/usage/mine", usage.OwnUsageView.as_view(), name="own-usage"),
]
