"""Paths of the registry's endpoints."""

from django.urls import path

from registry import apis, converters  # noqa: F401 (registers <name:…>)

urlpatterns = [
    path("v1/models/register", apis.ModelRegisterView.as_view(), name="model-register"),
    path("v1/models/default", apis.ModelDefaultView.as_view(), name="model-default"),
    path("api/v1/scan", apis.ScanView.as_view(), name="scan"),
    path("api/v1/models", apis.ModelListView.as_view(), name="models"),
    path("api/v1/models/<name:name>/versions", apis.VersionListView.as_view(), name="versions"),
    path("api/v1/models/<name:name>/versions/<str:number>", apis.VersionView.as_view(), name="version"),
    path("api/v1/models/<name:name>/promote", apis.ModelPromoteView.as_view(), name="promote"),
    path("api/v1/models/<name:name>/load", apis.ModelLoadView.as_view(), name="load"),
    path("api/v1/models/<name:name>/unload", apis.ModelUnloadView.as_view(), name="unload"),
    path("api/v1/models/<name:name>", apis.ModelView.as_view(), name="model"),
    path("api/v1/nodes", apis.NodeListView.as_view(), name="nodes"),
    path("api/v1/nodes/<name:name>", apis.NodeView.as_view(), name="node"),
    path("api/v1/replicas", apis.ReplicaListView.as_view(), name="replicas"),
]
