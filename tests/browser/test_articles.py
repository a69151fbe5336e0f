"""The two races of the articles, as a visitor watches them."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.stack, pytest.mark.browser]

Picture = Callable[[Page, str], None]
Check = Callable[[Page], None]


@pytest.mark.usefixtures("stack")
def test_an_edit_survives_the_task_with_the_id_and_not_the_one_with_the_article(
    page: Page, picture: Picture, accessible: Check
) -> None:
    page.goto("/articles/")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    accessible(page)
    page.get_by_label("Title").fill("Our party")
    page.get_by_label("Text", exact=True).fill("FYI: bring cake.")
    page.get_by_role("button", name="Save the article").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Our party")

    page.get_by_role("button", name="Spell out the abbreviations").click()
    page.get_by_label("Text", exact=True).fill("FYI: bring cake and tea.")
    page.get_by_role("button", name="Save the edit").click()
    page.evaluate("window.notReloaded = true")

    first, second = page.get_by_label("The first copy"), page.get_by_label("The second copy")
    expect(first).to_contain_text("FYI: bring cake and tea.")
    expect(first).to_contain_text("for your information: bring cake and tea.", timeout=40_000)
    expect(first).to_contain_text("Your edit is here.")
    expect(second).to_contain_text("for your information: bring cake.")
    expect(second).to_contain_text("Your edit is gone.")
    assert page.evaluate("window.notReloaded"), "the page was loaded again"
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    accessible(page)
    picture(page, "articles-race")


@pytest.mark.usefixtures("stack")
def test_queued_on_commit_the_task_finds_its_article(page: Page, accessible: Check) -> None:
    page.goto("/articles/")
    inside = page.locator(".task", has_text="Queued inside the transaction")
    for _ in range(3):  # a busy worker may come late enough to find the row
        page.get_by_role("button", name="Queued inside the transaction").click()
        expect(inside.locator(".task-word")).to_have_text(re.compile("failed|done"), timeout=30_000)
        if inside.locator(".task-word").inner_text() == "failed":
            break
    expect(inside).to_contain_text("Article matching query does not exist.")

    page.get_by_role("button", name="Queued on commit").click()
    on_commit = page.locator(".task", has_text="Queued on commit")
    expect(on_commit.locator(".task-word")).to_have_text("done", timeout=30_000)
    expect(on_commit).to_contain_text("4 abbreviations spelt out.")
    accessible(page)
