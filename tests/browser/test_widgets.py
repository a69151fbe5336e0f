"""The widgets demo, as a visitor sees it: tasks started in several ways, watched, and looked up again."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

pytestmark = [pytest.mark.stack, pytest.mark.browser]

Picture = Callable[[Page, str], None]
Check = Callable[[Page], None]


def newest(page: Page) -> Locator:
    """What was started last."""
    return page.get_by_role("region", name="What you started").get_by_role("article").first


def start(page: Page, way: str, numbers: str, task: str = "add") -> Locator:
    page.get_by_label("Task", exact=True).select_option(task)
    page.get_by_label("Called by").select_option(way)
    page.get_by_label("Numbers").fill(numbers)
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page).to_have_url(f"{page.url.partition('/widgets/')[0]}/widgets/#started")
    return newest(page)


def test_tasks_are_called_watched_and_looked_up_again(page: Page, picture: Picture, accessible: Check) -> None:
    page.goto("/widgets/")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "something sticks out"
    accessible(page)

    # Values appear without a reload.
    called = start(page, "delay", "6 7", task="mul")
    page.evaluate("window.notReloaded = true")
    expect(called).to_contain_text("mul.delay(6, 7)")
    expect(called.locator("output")).to_have_text("42", timeout=30_000)
    assert page.evaluate("window.notReloaded"), "the page was loaded again"
    expect(called.locator("[hx-get]")).to_have_count(0)

    # It is found again by its id.
    task_id = called.locator(".task-id code").inner_text()
    page.get_by_label("Task id").fill(task_id)
    page.get_by_role("button", name="Look up").click()
    found = page.get_by_role("table", name="What AsyncResult says")
    expect(found.get_by_role("row", name="state SUCCESS", exact=True)).to_be_visible()
    expect(found.get_by_role("row", name="result 42", exact=True)).to_be_visible()

    called = start(page, "chord", "1 2\n3 4")
    expect(called.locator("output")).to_have_text(["3", "7", "10"], timeout=30_000)

    # What nobody needs any more when its time comes is not run.
    page.get_by_label("Countdown").fill("3")
    page.get_by_label("Expires").fill("1")
    called = start(page, "apply_async", "2 3")
    expect(called.locator(".task-word")).to_have_text("cancelled", timeout=30_000)

    page.get_by_role("button", name="Call debug_task").click()
    answer = newest(page).get_by_role("table", name="The request, as the task saw it")
    expect(answer.get_by_role("row", name="task config.tasks.debug_task", exact=True)).to_be_visible(timeout=30_000)

    page.get_by_role("button", name="Start 30 of them").click()
    counts = newest(page).get_by_role("table", name="How many started in each second")
    expect(counts).to_be_visible(timeout=60_000)
    assert sum(int(cell) for cell in counts.locator("tbody td:nth-child(3)").all_inner_texts()) == 30
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "something sticks out"
    accessible(page)
    picture(page, "widgets")


def test_a_mistake_is_shown_at_its_field(page: Page, accessible: Check) -> None:
    page.goto("/widgets/")
    page.get_by_label("Numbers").fill("2 three")
    page.get_by_role("button", name="Start", exact=True).click()
    numbers = page.get_by_label("Numbers")
    expect(page.get_by_role("alert")).to_be_visible()
    expect(numbers).to_have_attribute("aria-invalid", "true")
    expect(numbers).to_have_accessible_description(re.compile("“three” is not a whole number. Write numbers like: 2 3"))
    expect(numbers).to_be_focused()
    expect(numbers).to_have_value("2 three")
    page.emulate_media(color_scheme="dark")
    accessible(page)
