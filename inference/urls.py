"""Paths of what the web process says of models in memory."""

from django.urls import path

from inference.fit_apis import FitView
from registry import converters  # noqa: F401 (registers <name:…>)

urlpatterns = [path("api/v1/models/<name:name>/fit", FitView.as_view(), name="fit")]
