"""Pages that belong to no room."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.views.decorators.http import require_safe


@require_safe
def landing(request: HttpRequest) -> HttpResponse:
    """Where someone arrives who opens the printed URL: what this is, one curl, where to go. Needs no database."""
    url = request.build_absolute_uri("/").rstrip("/")
    return render(request, "landing.html", {"url": url, "key_required": settings.NOPENAI.require_api_key})


@require_safe
def favicon(request: HttpRequest) -> HttpResponse:
    """Where browsers look that were told of no icon: on JSON, and on the API's page."""
    return redirect(static("nopenai/icon.svg"))
