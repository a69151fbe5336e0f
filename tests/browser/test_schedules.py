"""Schedules in the admin, as an operator with a browser writes, runs and watches them."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.test_feedback import fits
from tests.stack.project import Stack
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.browser]

Picture = Callable[[Page, str], None]
Check = Callable[[Page], None]

LIST = "/admin/django_celery_beat/periodictask/"
#: For what a second size would show nothing new of.
DESKTOP = pytest.mark.parametrize("size", ["desktop"], indirect=True)


def sign_in(page: Page, stack: Stack) -> None:
    user, password = stack.credentials()["Admin"]
    page.goto("/admin/")
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("heading", name="Administration")).to_be_visible()


def said_at(field: Locator) -> str:
    """What a screen reader reads out with a field."""
    described = (field.get_attribute("aria-describedby") or "").split()
    return " ".join(field.page.locator(f"#{part}").inner_text() for part in described)


def row(page: Page, name: str) -> Locator:
    return page.locator("#result_list tbody tr").filter(has=page.get_by_role("link", name=name, exact=True))


@DESKTOP
def test_a_schedule_is_written_corrected_run_by_hand_and_its_result_is_read(
    page: Page, stack: Stack, picture: Picture, accessible: Check
) -> None:
    sign_in(page, stack)
    page.goto(f"{LIST}add/")
    page.get_by_label("Name:", exact=True).fill("walked through")
    page.get_by_role("combobox", name="Task:").click()
    search = page.get_by_role("searchbox", name="Task:")
    search.fill("debug_t")
    expect(page.locator(".select2-results").get_by_role("option")).to_have_text("config.tasks.debug_task")
    accessible(page)
    search.press("Enter")

    # A mistake is said at its field, and what was written is kept.
    keywords = page.get_by_label("Keyword arguments:", exact=True)
    keywords.fill('{"rows": 3}')
    page.get_by_role("button", name="Save", exact=True).click()
    expect(keywords).to_have_attribute("aria-invalid", "true")
    assert "got an unexpected keyword argument 'rows'" in said_at(keywords)
    assert "Choose when it runs" in said_at(page.get_by_label("Interval:", exact=True))
    expect(keywords).to_have_value('{"rows": 3}')
    accessible(page)
    picture(page, "schedule-mistakes")
    keywords.fill("{}")

    # The interval is made in a window of its own, which takes none that never comes.
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Add another interval").click()
    window = opened.value
    every = window.get_by_label("Number of Periods")
    every.fill("0")
    window.get_by_label("Interval Period").select_option("days")
    window.get_by_role("button", name="Save", exact=True).click()
    expect(every).to_have_attribute("aria-invalid", "true")
    assert "Write a whole number, 1 or more." in said_at(every)
    every.fill("3")
    window.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_label("Interval:", exact=True).locator(":checked")).to_have_text("every 3 days")
    page.get_by_role("button", name="Save and continue editing").click()
    expect(page.get_by_text("was added successfully")).to_be_visible()

    page.get_by_role("button", name="Run now").click()
    page.get_by_role("link", name=re.compile(r"^run \d+$")).click()
    expect(page.get_by_role("heading", name="View schedule run")).to_be_visible()
    done = page.get_by_role("link", name="done", exact=True)
    eventually(lambda: page.reload() and done.count(), what="the run is done")
    expect(page.get_by_text("by hand", exact=False).first).to_be_visible()
    accessible(page)
    picture(page, "schedule-run")
    done.click()
    expect(page.get_by_text("SUCCESS").first).to_be_visible()
    expect(page.get_by_text("config.tasks.debug_task").first).to_be_visible()

    page.goto(LIST)
    expect(row(page, "walked through").get_by_role("link", name="done")).to_be_visible()
    row(page, "walked through").get_by_role("checkbox").check()
    page.get_by_label("Action:").select_option("delete_selected")
    page.get_by_role("button", name="Go", exact=True).click()
    page.get_by_role("button", name=re.compile("^Yes")).click()
    expect(page.get_by_text("Successfully deleted 1 periodic task")).to_be_visible()
    assert not stack.sql("SELECT 1 FROM django_celery_beat_periodictask WHERE name = 'walked through'")


def test_the_list_and_the_form_can_be_used_at_any_size(
    page: Page, stack: Stack, picture: Picture, accessible: Check
) -> None:
    sign_in(page, stack)
    page.goto(LIST)
    seeded = row(page, "clear expired sessions")
    expect(seeded).to_contain_text("At 03:30 AM")
    expect(seeded.locator("time").first).to_be_visible()  # its next run
    assert fits(page)
    accessible(page)
    picture(page, "schedules")

    page.get_by_role("link", name="clear expired sessions", exact=True).click()
    expect(page.get_by_role("combobox", name="Task:")).to_have_text(re.compile("celeriac.clear_sessions"))
    assert fits(page)
    accessible(page)
    picture(page, "schedule")


@DESKTOP
def test_schedules_are_readable_in_the_dark(page: Page, stack: Stack, picture: Picture, accessible: Check) -> None:
    page.emulate_media(color_scheme="dark")
    sign_in(page, stack)
    for path in (LIST, f"{LIST}add/", "/admin/celeriac/schedulerun/", "/admin/django_celery_beat/crontabschedule/add/"):
        page.goto(path)
        accessible(page)
    page.goto(LIST)
    picture(page, "schedules-dark")
