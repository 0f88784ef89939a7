"""Pages that belong to no room."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe


@require_safe
def landing(request: HttpRequest) -> HttpResponse:
    """Where someone arrives who opens the printed URL: what this is, one curl, where to go. Needs no database."""
    url = request.build_absolute_uri("/").rstrip("/")
    return render(request, "landing.html", {"url": url, "key_required": settings.NOPENAI.require_api_key})
