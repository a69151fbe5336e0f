"""A file sent with the form, watched through a reload, and its result downloaded."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.stack, pytest.mark.browser]

Picture = Callable[[Page, str], None]
Check = Callable[[Page], None]
FIELD = "A CSV file or a picture"


def fits(page: Page) -> bool:
    """Nothing sticks out to the side."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_a_file_is_watched_through_a_reload_and_its_result_downloaded(
    page: Page, picture: Picture, accessible: Check, tmp_path: Path
) -> None:
    table = tmp_path / "sales.csv"
    with table.open("w") as file:  # enough rows to see it happen
        file.write("number,name,formula\n")
        file.writelines(f"{number},Customer {number},=1+{number}\n" for number in range(1_500_000))
    page.goto("/uploads/")
    assert fits(page)
    accessible(page)
    page.get_by_label(FIELD).set_input_files(table)
    page.get_by_role("button", name="Send file").click()

    mine = page.get_by_role("region", name="Your files")
    expect(mine.get_by_role("heading", name="sales.csv")).to_be_visible(timeout=30_000)
    expect(mine.get_by_role("progressbar")).to_be_visible(timeout=30_000)
    page.reload()
    expect(mine.get_by_role("progressbar")).to_be_visible()
    accessible(page)
    picture(page, "uploads-running")

    page.evaluate("window.notReloaded = true")
    expect(mine.get_by_text("Done: 1,500,000 rows, 3 columns.")).to_be_visible(timeout=60_000)
    assert page.evaluate("window.notReloaded"), "the page was loaded again"
    with page.expect_download() as download:
        mine.get_by_role("link", name="Download sales-summary.csv").click()
    rows = download.value.path().read_text("utf-8-sig").splitlines()
    assert rows[1] == "number,integer,1500000,0,0,1499999,749999.5"
    assert rows[3].startswith("formula,text,1500000,0,'=1+0,'=1+")
    assert fits(page)
    accessible(page)
    picture(page, "uploads-done")

    mine.get_by_role("button", name="Delete").click()
    expect(mine.get_by_text("Nothing yet.")).to_be_visible()


def test_what_cannot_be_processed_is_told_at_the_field_and_in_the_list(page: Page, accessible: Check) -> None:
    page.goto("/uploads/")
    page.get_by_label(FIELD).set_input_files({"name": "a.csv", "mimeType": "text/csv", "buffer": b"%PDF-1.4"})
    page.get_by_role("button", name="Send file").click()
    field = page.get_by_label(FIELD)
    expect(field).to_have_attribute("aria-invalid", "true")
    expect(field).to_be_focused()
    described = field.get_attribute("aria-describedby") or ""
    texts = [page.locator(f"#{part}").inner_text() for part in described.split()]
    assert any("This is neither a CSV file nor" in text for text in texts)
    accessible(page)

    field.set_input_files({"name": "b.csv", "mimeType": "text/csv", "buffer": b'a,b\n"1"2,3\n'})
    page.get_by_role("button", name="Send file").click()
    expect(page.get_by_text("Line 2 is no CSV: ',' expected after")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("button", name="Start again")).to_have_count(0)
    accessible(page)
