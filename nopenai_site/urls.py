"""Everything that the web process answers. The gateway answers inference and reads of models before it gets here."""

from django.contrib import admin
from django.urls import include, path

from nopenai_site import pages, schema

urlpatterns = [
    path("", pages.landing, name="landing"),
    path("favicon.ico", pages.favicon, name="favicon"),
    path("admin/", admin.site.urls),
    path("", include("inference.urls")),
    path("", include("registry.urls")),
    path("", include("quotas.urls")),
    path("", include("routing.urls")),
    path("api/schema", schema.SchemaView.as_view(), name="api-schema"),
    path("api/docs", schema.DocsView.as_view(url_name="api-schema"), name="api-docs"),
]

handler400 = "nopenai_site.errors.bad_request"
handler403 = "nopenai_site.errors.permission_denied"
handler404 = "nopenai_site.errors.page_not_found"
handler500 = "nopenai_site.errors.server_error"
