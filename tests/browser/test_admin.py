"""The admin and Flower, as an operator sees them."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import SIZES
from tests.stack.project import Stack
from tests.waiting import eventually

pytestmark = [pytest.mark.stack, pytest.mark.browser]


def test_a_periodic_task_edited_in_the_admin_is_saved_and_fires(
    page: Page, stack: Stack, size: str, picture: Callable[[Page, str], None]
) -> None:
    user, password = stack.credentials()["Admin"]
    page.goto("/admin/")
    page.get_by_label("Username").fill(user)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Log in").click()

    name = f"made at a {size}"
    page.goto("/admin/django_celery_beat/intervalschedule/add/")
    page.get_by_label("Number of Periods").fill("2")
    page.get_by_label("Interval Period").select_option("seconds")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was added successfully")).to_be_visible()

    page.goto("/admin/django_celery_beat/periodictask/add/")
    page.get_by_label("Name:", exact=True).fill(name)
    page.locator("#id_task").select_option("config.tasks.debug_task")
    page.get_by_label("Enabled").uncheck()
    page.get_by_label("Interval:", exact=True).select_option(label="every 2 seconds")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was added successfully")).to_be_visible()

    page.locator("#result_list").get_by_role("link", name=name, exact=True).click()
    page.get_by_label("Enabled").check()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_text("was changed successfully")).to_be_visible()
    picture(page, "admin-periodic-tasks")

    eventually(lambda: stack.results(f"periodic_task_name = '{name}' AND status = 'SUCCESS'"), what="it has fired")
    page.goto("/admin/django_celery_results/taskresult/")
    row = page.locator("#result_list tr", has_text=name).first
    expect(row).to_contain_text("config.tasks.debug_task")
    picture(page, "admin-task-results")

    page.goto("/admin/django_celery_beat/periodictask/")
    page.locator("#result_list").get_by_role("link", name=name, exact=True).click()
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name=re.compile("^Yes")).click()
    expect(page.get_by_text("was deleted successfully")).to_be_visible()


def test_flower_shows_the_workers_and_their_tasks(
    chromium: Browser, stack: Stack, size: str, picture: Callable[[Page, str], None]
) -> None:
    stack.result(stack.send("config.tasks.debug_task"))
    stack.result(stack.send("config.tasks.debug_task", queue="heavy_tasks"))
    user, password = stack.credentials()["Flower"]
    width, height = SIZES[size]
    context = chromium.new_context(
        base_url=stack.flower,
        viewport={"width": width, "height": height},
        http_credentials={"username": user, "password": password},
    )
    page = context.new_page()
    page.goto("/workers")
    expect(page.get_by_text("default@").first).to_be_visible()
    expect(page.get_by_text("heavy_tasks@").first).to_be_visible()
    page.goto("/tasks")
    expect(page.get_by_text("config.tasks.debug_task").first).to_be_visible()
    expect(page.get_by_text("SUCCESS").first).to_be_visible()
    picture(page, "flower-tasks")
    context.close()
