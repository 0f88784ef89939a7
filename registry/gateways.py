"""What this installation's gateway says, asked by the web process on behalf of who is signed in."""

import json
import time
import urllib.error
import urllib.request
from typing import Any

import structlog
from django.conf import settings

from registry.errors import Unavailable
from registry.tickets import ticket_make

log = structlog.get_logger(module="web")

_SECONDS = 2.0
"""For a page that somebody waits for."""


def gateway_get(path: str, *, user: str) -> Any:
    """What it answers, as JSON.

    Args:
        path: with its query.
        user: who is signed in, and may see it.

    Raises:
        Unavailable: there is no answer; says so in words for people.
    """
    ticket = ticket_make(user, settings.SECRET_KEY.encode(), time.time())
    request = urllib.request.Request(settings.NOPENAI.own_url + path, headers={"Authorization": f"Bearer {ticket}"})
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            return json.load(answer)
    except (OSError, ValueError) as fault:  # an HTTP error is an OSError, too
        log.warning("The gateway did not answer", path=path, reason=str(fault))
        raise Unavailable(f"The gateway does not answer at the moment ({fault}): load the page again.") from fault
