"""Browser tests: real Chromium, driven by Playwright, before one real installation.

What a test shows goes into ``tests/artifacts/browser`` as pictures, for people to look at. A page whose script fails or
whose console says an error fails its test, whatever else was looked at.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from nopenai_site.environment import PROJECT_ROOT
from tests.browser.window import Desk
from tests.installation import Installation, running_installation

PASSWORD = "a browser's password"
PICTURES = PROJECT_ROOT / "tests" / "artifacts" / "browser"


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One for all browser tests that leave it as they found it: the starter model served, ``admin`` may log in."""
    directory = tmp_path_factory.mktemp("installation")
    with running_installation(directory, NOPENAI_ADMIN_USER="admin", NOPENAI_ADMIN_PASSWORD=PASSWORD) as shared:
        yield shared


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"],
        )
        yield started
        started.close()


@pytest.fixture
def desk(browser: Browser, installation: Installation) -> Iterator[Desk]:
    """Where a test opens its windows; see :class:`tests.browser.window.Desk`."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    made = Desk(browser=browser, url=installation.url, password=PASSWORD, pictures=Path(PICTURES))
    yield made
    made.close()
