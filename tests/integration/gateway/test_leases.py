"""What the ledger's thread does in real PostgreSQL, beside leases themselves."""

from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from inference.gateway.leases import LeaseThread
from inference.gateway.standings import Reached
from quotas import treasury
from quotas.ledger import Account, Ask, Balance, Unit
from quotas.modes import Level
from quotas.windows import Period, Window

ACCOUNT = Account(
    key="model:1/tokens/hour",
    unit=Unit.TOKENS,
    period=Period.HOUR,
    limit=1000,
    name="hourly_token_limit",
    owner="The model 'Big'",
)
WINDOW = Window(0, 3600)


def reached(level: Level, percent: float) -> Reached:
    return Reached(model="Big", account=ACCOUNT, window=WINDOW, level=level, percent=percent)


class Nobody:
    """Hears nothing that this test is about."""

    def leased(self, *_: Any) -> None: ...
    def told(self, *_: Any) -> None: ...
    def read(self, *_: Any) -> None: ...


@pytest.fixture
def leased(transactional_db: None) -> None:
    treasury.lease(gateway="a" * 32, ask=Ask(Balance(ACCOUNT, WINDOW), 1))


@pytest.mark.usefixtures("leased")
async def test_a_level_is_said_in_the_log_once_by_one_gateway_of_all(tmp_path: Path) -> None:
    with capture_logs() as logs:
        for _ in range(2):
            thread = LeaseThread(tmp_path)
            thread.start(Nobody())
            for level, percent in ((Level.INFO, 81.26), (Level.AGGRESSIVE, 95.0), (Level.HARD, 100.0)):
                thread.reached(reached(level, percent))
            await thread.stop()
    common = {"module": "quotas", "model_id": "Big", "limit": "hourly_token_limit", "of": 1000}
    assert logs == [
        {"event": "Soft limit reached", "log_level": "info", "percent": 81.3, "reached": "info", **common},
        {"event": "Soft limit reached", "log_level": "error", "percent": 95.0, "reached": "aggressive", **common},
        {"event": "Hard limit reached", "log_level": "error", "percent": 100.0, "reached": "hard", **common},
    ]
