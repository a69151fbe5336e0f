"""The feedback page, as a visitor with a keyboard sees it."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.stack.mailserver import MailServer
from tests.stack.project import Stack

pytestmark = [pytest.mark.stack, pytest.mark.browser]

Picture = Callable[[Page, str], None]
Check = Callable[[Page], None]


def fits(page: Page) -> bool:
    """Nothing sticks out to the side."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_home_page_leads_to_the_form(page: Page, picture: Picture, accessible: Check) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", level=1)).to_contain_text("does not lose work")
    assert fits(page)
    accessible(page)
    picture(page, "home")
    page.get_by_role("link", name="Try it").click()
    expect(page).to_have_url(f"{page.url.split('/feedback/')[0]}/feedback/")


def test_feedback_by_keyboard_goes_from_queued_to_delivered_without_a_reload(
    page: Page, picture: Picture, accessible: Check, mail: MailServer, size: str
) -> None:
    mail.refuse = 1  # so that there is something to see on the way
    page.goto("/feedback/")
    assert fits(page)
    accessible(page)
    email = page.get_by_label("Your email address")
    for _ in range(20):  # past the links of the header
        page.keyboard.press("Tab")
        if email.evaluate("field => field === document.activeElement"):
            break
    page.keyboard.type("ada@example.org")
    page.keyboard.press("Tab")
    page.keyboard.type(f"Typed at a {size}.")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect(page.get_by_role("heading", name="Thank you for your feedback")).to_be_visible()
    page.evaluate("window.notReloaded = true")
    now = page.locator("[aria-current=step]")
    expect(now).to_have_text("Delivered", timeout=30_000)
    expect(page.get_by_text("Delivered at attempt 2")).to_be_visible()
    assert page.evaluate("window.notReloaded"), "the page was loaded again"
    assert fits(page)
    accessible(page)
    picture(page, "feedback-delivered")
    assert len(mail.about(f"Typed at a {size}.")) == 1


def test_a_mistake_is_shown_at_its_field_and_what_was_typed_is_kept(page: Page, accessible: Check) -> None:
    page.goto("/feedback/")
    page.locator("form").last.evaluate("form => form.noValidate = true")  # the server's own words, not the browser's
    page.get_by_label("Your email address").fill("no address")
    page.get_by_label("Your message").fill("Kept.")
    page.get_by_role("button", name="Send feedback").click()
    email = page.get_by_label("Your email address")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(email).to_have_attribute("aria-invalid", "true")
    described = email.get_attribute("aria-describedby") or ""
    texts = [page.locator(f"#{part}").inner_text() for part in described.split()]
    assert any("Enter an email address like name@example.org." in text for text in texts)
    expect(email).to_be_focused()
    expect(page.get_by_label("Your message")).to_have_value("Kept.")
    accessible(page)


def test_dark_mode_is_readable_too(page: Page, stack: Stack, picture: Picture, accessible: Check) -> None:
    page.emulate_media(color_scheme="dark")
    for path in ("/", "/feedback/"):
        page.goto(path)
        accessible(page)
    answer = stack.give_feedback("The page at night.")
    stack.delivered(answer.location)
    page.goto(answer.location)
    accessible(page)
    picture(page, "feedback-delivered-dark")
