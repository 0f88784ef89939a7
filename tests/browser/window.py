"""Windows of a browser as tests open them: wide or a phone's, light or dark, of staff or of a stranger."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, ViewportSize, expect

__all__ = ["Desk", "Look", "Window", "expect"]

PATIENCE_MS = 30_000
"""How long Playwright waits for what it looks for. Nothing takes a tenth of it."""
expect.set_options(timeout=PATIENCE_MS)

Look = Literal["light", "dark", "phone light", "phone dark"]
LOOKS: Mapping[Look, tuple[ViewportSize, Literal["light", "dark"]]] = {
    "light": ({"width": 1440, "height": 900}, "light"),
    "dark": ({"width": 1440, "height": 900}, "dark"),
    "phone light": ({"width": 390, "height": 844}, "light"),
    "phone dark": ({"width": 390, "height": 844}, "dark"),
}

_GRAVE = ("serious", "critical")
"""axe-core's impacts that fail a test."""


@dataclass(kw_only=True)
class Window:
    """One page and what went wrong in it."""

    page: Page
    look: Look
    pictures: Path
    faults: list[str] = field(default_factory=list)
    """Of scripts and of the console. A test that provokes one takes it out."""

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", self._hear)

    def picture(self, name: str) -> None:
        """The whole page, as ``<name> <look>.png``."""
        path = self.pictures / f"{name} {self.look}.png"
        self.page.screenshot(path=path, full_page=True, animations="disabled")

    def grave_barriers(self) -> list[str]:
        """What keeps people with disabilities out, by axe-core: rule, why, and the first place."""
        found = Axe().run(self.page).response["violations"]
        return [
            f"{each['id']}: {each['help']} ({each['nodes'][0]['html'][:200]})"
            for each in found
            if each["impact"] in _GRAVE
        ]

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.faults.append(f"{message.text} ({message.location.get('url', '')})")


@dataclass(kw_only=True)
class Desk:
    """Opens windows, each with cookies and storage of its own, and closes them all at the end of a test."""

    browser: Browser
    url: str
    password: str
    """Of ``admin``."""
    pictures: Path
    _contexts: list[BrowserContext] = field(default_factory=list)
    _windows: list[Window] = field(default_factory=list)

    def stranger(self, path: str = "/", *, look: Look = "light", scripts: bool = True) -> Window:
        """A window without a login, on ``path``. ``scripts``: whether the browser runs JavaScript."""
        viewport, scheme = LOOKS[look]
        context = self.browser.new_context(
            base_url=self.url,
            viewport=viewport,
            color_scheme=scheme,
            java_script_enabled=scripts,
            has_touch=look.startswith("phone"),
        )
        self._contexts.append(context)
        window = Window(page=context.new_page(), look=look, pictures=self.pictures)
        self._windows.append(window)
        window.page.goto(path)
        return window

    def staff(
        self, path: str = "/admin/", *, look: Look = "light", user: str = "admin", scripts: bool = True
    ) -> Window:
        """A window of somebody who logged in as a person does, then on ``path``."""
        window = self.stranger("/admin/login/", look=look, scripts=scripts)
        window.page.get_by_label("Username").fill(user)
        window.page.get_by_label("Password").fill(self.password)
        window.page.get_by_role("button", name="Log in").click()
        expect(window.page).not_to_have_url(f"{self.url}/admin/login/")
        if path != "/admin/":
            window.page.goto(path)
        return window

    def close(self) -> None:
        """
        Raises:
            AssertionError: a script of a page failed, or its console said an error.
        """
        for context in self._contexts:
            context.close()
        faults = [fault for window in self._windows for fault in window.faults]
        assert not faults, "\n".join(faults)
