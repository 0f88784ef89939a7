"""What Unfold's first page shows (UNFOLD's DASHBOARD_CALLBACK)."""

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.utils import timezone

from registry import overview
from registry.staff import HEALTH_COLOURS, STATE_COLOURS, coloured

_COLOURS = HEALTH_COLOURS | STATE_COLOURS | {"silent": "danger"}


def show(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    now = timezone.now()
    if request.user.has_perm("registry.view_model"):
        concerns = [(coloured(concern.word, _COLOURS), concern) for concern in overview.concerns(now=now)]
        context |= {"figures": overview.figures(now=now), "concerns": concerns}
    return context | {
        "title": "Overview",
        "url": request.build_absolute_uri("/").rstrip("/"),
        "key_required": settings.NOPENAI.require_api_key,
    }
