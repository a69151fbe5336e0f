"""Mail to many, and the time limits, as a visitor watches them."""

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.stack.mailserver import MailServer

pytestmark = [pytest.mark.stack, pytest.mark.browser]

Picture = Callable[[Page, str], None]
Check = Callable[[Page], None]


@pytest.mark.usefixtures("stack")
def test_a_campaign_reaches_everybody_once_although_the_mail_server_is_busy_at_first(
    page: Page, picture: Picture, accessible: Check, mail: MailServer, size: str
) -> None:
    mail.refuse = 1
    text = f"Written for three at a {size}."
    page.goto("/notifications/")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    accessible(page)
    page.get_by_label("Subject").fill("We open")
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_label("Addresses, one on each line").fill("ada@example.org\ngrace@example.net\njoan@example.com")
    page.get_by_role("button", name="Send the mails").click()

    expect(page.get_by_role("heading", level=1)).to_have_text("We open")
    page.evaluate("window.notReloaded = true")
    expect(page.locator(".task-word")).to_have_text("done", timeout=40_000)
    expect(page.locator(".task-result")).to_have_text("3 of 3 sent.")
    expect(page.get_by_role("listitem").filter(has_text="sent at")).to_have_count(3)
    expect(page.get_by_role("button", name="Send the rest again")).to_have_count(0)
    assert page.evaluate("window.notReloaded"), "the page was loaded again"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    accessible(page)
    picture(page, "notifications-campaign")
    assert mail.refused == 1
    bodies = [message.get_content() for message in mail.about(text)]
    assert sorted(body.split(":")[0] for body in bodies) == [
        "To ada@example.org",
        "To grace@example.net",
        "To joan@example.com",
    ]


@pytest.mark.usefixtures("stack")
def test_a_line_that_is_no_address_is_named_and_nothing_is_lost(page: Page, accessible: Check) -> None:
    page.goto("/notifications/")
    addresses = page.get_by_label("Addresses, one on each line")
    addresses.fill("ada@example.org\nnobody\nmayor@city.gov")
    page.get_by_role("button", name="Send the mails").click()

    expect(page.get_by_role("alert")).to_be_visible()
    expect(page.get_by_text("Line 2: write nobody like name@example.org.")).to_be_visible()
    expect(page.get_by_text("Line 3: mayor@city.gov may be somebody's")).to_be_visible()
    expect(addresses).to_have_attribute("aria-invalid", "true")
    expect(addresses).to_have_value("ada@example.org\nnobody\nmayor@city.gov")
    accessible(page)


@pytest.mark.usefixtures("stack")
def test_a_task_that_listens_ends_well_and_one_that_does_not_is_killed_and_reported(
    page: Page, picture: Picture, accessible: Check
) -> None:
    page.goto("/notifications/")
    page.get_by_role("button", name="Start the stubborn task").click()
    killed = page.locator(".task", has_text="Killed by the hard limit")
    expect(killed.locator(".task-word")).to_have_text("failed", timeout=30_000)
    expect(killed).to_contain_text("It took longer than 4 seconds and was stopped.")

    page.get_by_role("button", name="Start the polite task").click()
    heard = page.locator(".task", has_text="Ends at the soft limit")
    expect(heard.locator(".task-word")).to_have_text("done", timeout=30_000)
    expect(heard).to_contain_text("saved what was done, and stopped")
    accessible(page)
    picture(page, "notifications-limits")
