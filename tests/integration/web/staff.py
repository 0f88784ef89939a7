"""People who work in the admin, and what it tells them."""

from typing import Any

from django.contrib.auth.models import Permission, User
from django.contrib.messages import get_messages
from django.test import Client


def superuser() -> Client:
    return _logged_in(User.objects.create_superuser("root"))


def staff(*permissions: str) -> Client:
    """Somebody who may do these things and nothing else."""
    user = User.objects.create_user("staff", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return _logged_in(user)


def said(response: Any) -> list[str]:
    """The messages on top of the next page."""
    return [str(message) for message in get_messages(response.wsgi_request)]


def _logged_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client
