"""Paths of the routing configuration."""

from django.urls import include, path

from routing import apis

_config = [
    path("routing/config", apis.RoutingView.as_view(), name="routing-config"),
    path("routing/config/revisions", apis.RevisionListView.as_view(), name="routing-revisions"),
    path("routing/config/revisions/<int:number>", apis.RevisionView.as_view(), name="routing-revision"),
    path("routing/config/revisions/<int:number>/restore", apis.RestoreView.as_view(), name="routing-restore"),
    path("routing/rollout/restart", apis.RestartView.as_view(), name="routing-rollout-restart"),
]
"""The user guide's paths; under /api/v1 they are there, too."""

urlpatterns = [*_config, path("api/v1/", include(_config))]
