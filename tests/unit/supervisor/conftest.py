"""A supervisor's decisions with nothing behind them."""

import pytest

from tests.unit.supervisor.hand_driven import Node


@pytest.fixture
def node() -> Node:
    return Node()
