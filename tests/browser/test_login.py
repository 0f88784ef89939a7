"""The first page that an operator sees, in every look."""

import pytest

from tests.browser.window import LOOKS, Desk, Look, expect


@pytest.mark.parametrize("look", LOOKS)
def test_an_operator_logs_in(desk: Desk, look: Look) -> None:
    window = desk.stranger("/admin/login/", look=look)
    window.picture("login")
    assert window.grave_barriers() == []
    home = desk.staff(look=look)
    expect(home.page).to_have_url(f"{desk.url}/admin/")


def test_a_wrong_password_is_told(desk: Desk) -> None:
    page = desk.stranger("/admin/login/").page
    page.get_by_label("Username").fill("admin")
    page.get_by_label("Password").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_text("Please enter the correct username and password")).to_be_visible()


def test_without_scripts_one_logs_in_too(desk: Desk) -> None:
    expect(desk.staff(scripts=False).page.get_by_role("heading").first).to_be_visible()
