"""Paths of the registry's endpoints."""

from django.urls import include, path

from registry import apis, converters  # noqa: F401 (registers <name:…>)
from registry.backends import apis as backends
from registry.cache import apis as cache
from registry.health import apis as health
from registry.schedules import apis as schedules

_allocation = [
    path("cache/allocation", cache.AllocationView.as_view(), name="cache-allocation"),
    path("cache/allocation/revisions", cache.RevisionListView.as_view(), name="cache-revisions"),
    path("cache/allocation/revisions/<int:number>", cache.RevisionView.as_view(), name="cache-revision"),
    path("cache/allocation/revisions/<int:number>/restore", cache.RestoreView.as_view(), name="cache-restore"),
]
"""The user guide's paths; under /api/v1 they are there, too."""

urlpatterns = [
    path("v1/models/register", apis.ModelRegisterView.as_view(), name="model-register"),
    path("v1/models/default", apis.ModelDefaultView.as_view(), name="model-default"),
    path("api/v1/scan", apis.ScanView.as_view(), name="scan"),
    path("api/v1/models", apis.ModelListView.as_view(), name="models"),
    path("api/v1/models/<name:name>/versions", apis.VersionListView.as_view(), name="versions"),
    path("api/v1/models/<name:name>/versions/<str:number>", apis.VersionView.as_view(), name="version"),
    path("api/v1/models/<name:name>/versions/<str:number>/tunings", apis.TuningsView.as_view(), name="tunings"),
    path("api/v1/models/<name:name>/schedules", schedules.ScheduleListView.as_view(), name="schedules"),
    path("api/v1/models/<name:name>/schedules/<int:key>", schedules.ScheduleView.as_view(), name="schedule"),
    path("health/check", health.HealthCheckView.as_view(), name="health-check"),
    path("api/v1/models/<name:name>/health", health.ModelHealthView.as_view(), name="model-health"),
    path("api/v1/models/<name:name>/versions/<str:number>/backend", backends.BackendView.as_view(), name="backend"),
    path("api/v1/backends", backends.BackendListView.as_view(), name="backends"),
    path("api/v1/models/<name:name>/promote", apis.ModelPromoteView.as_view(), name="promote"),
    path("api/v1/models/<name:name>/load", apis.ModelLoadView.as_view(), name="load"),
    path("api/v1/models/<name:name>/unload", apis.ModelUnloadView.as_view(), name="unload"),
    path("api/v1/models/<name:name>", apis.ModelView.as_view(), name="model"),
    path("api/v1/nodes", apis.NodeListView.as_view(), name="nodes"),
    path("api/v1/nodes/<name:name>", apis.NodeView.as_view(), name="node"),
    path("api/v1/replicas", apis.ReplicaListView.as_view(), name="replicas"),
    *_allocation,
    path("api/v1/", include(_allocation)),
    path("api/v1/shared-prompts", cache.SharedPromptListView.as_view(), name="shared-prompts"),
    path("api/v1/shared-prompts/<name:name>", cache.SharedPromptView.as_view(), name="shared-prompt"),
]
