"""Nodes over REST and in the admin."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from rest_framework.test import APIClient

from registry.models import Node

NODE = "/api/v1/nodes/node-1"

pytestmark = pytest.mark.usefixtures("models")


def gone() -> None:
    Node.objects.update(last_seen_at=timezone.now() - timedelta(minutes=1))


def test_a_node_is_shown_with_its_duty_and_whether_it_is_up(operator: APIClient) -> None:
    node = operator.get(NODE).json()
    assert (node["duty"], node["up"], node["loaded"], node["address"]) == ("open", True, 0, "")
    gone()
    assert operator.get("/api/v1/nodes").json()[0]["up"] is False


def test_a_node_is_cordoned_and_opened(operator: APIClient) -> None:
    assert operator.patch(NODE, {"duty": "cordoned"}, format="json").json()["duty"] == "cordoned"
    assert operator.patch(NODE, {"duty": "open"}, format="json").json()["duty"] == "open"


@pytest.mark.parametrize("body", [{"duty": "closed"}, {"duty": 1}, {}, {"cordoned": True}])
def test_a_bad_order_is_refused(operator: APIClient, body: object) -> None:
    response = operator.patch(NODE, body, format="json")
    assert response.status_code == 400
    assert Node.objects.get().duty == "open"


def test_a_node_is_forgotten_once_it_is_gone(operator: APIClient) -> None:
    assert operator.delete(NODE).status_code == 400
    gone()
    assert operator.delete(NODE).status_code == 204
    assert operator.get(NODE).status_code == 404


@pytest.mark.parametrize(("act", "duty"), [("cordon", "cordoned"), ("drain", "draining"), ("open", "open")])
def test_the_admins_buttons_order_a_node(root: Client, act: str, duty: str) -> None:
    Node.objects.update(duty="cordoned" if duty != "cordoned" else "open")
    answer = root.post(reverse(f"admin:registry_node_{act}", args=[Node.objects.get().pk]))
    assert answer.status_code == 302
    assert Node.objects.get().duty == duty


def test_the_admin_forgets_only_what_is_gone(root: Client) -> None:
    path = reverse("admin:registry_node_forget", args=[Node.objects.get().pk])
    root.post(path)
    assert Node.objects.exists()
    gone()
    root.post(path)
    assert not Node.objects.exists()
