"""The pages demo, as a visitor with a list of addresses sees it."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.stack, pytest.mark.browser]

Picture = Callable[[Page, str], None]
Check = Callable[[Page], None]

#: What tests/stack/compose.yaml allows the workers to fetch from: this machine, on one port.
PORT = 18099
SITE = f"http://host.docker.internal:{PORT}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        pages = {"/bees": b"<title>On bees</title><p>They dance. <a href='/why'>Why?</a>"}
        body = pages.get(self.path, b"")
        self.send_response(200 if body else 404)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def _site() -> Iterator[None]:
    """A web site on this machine."""
    server = ThreadingHTTPServer(("0.0.0.0", PORT), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


def fits(page: Page) -> bool:
    """Nothing sticks out to the side."""
    return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.usefixtures("_site")
def test_every_address_of_a_list_ends_in_a_row_and_all_of_them_in_a_summary(
    page: Page, picture: Picture, accessible: Check
) -> None:
    page.goto("/pages/")
    assert fits(page)
    accessible(page)
    addresses = page.get_by_label("Web addresses")

    addresses.fill(f"{SITE}/bees\nno address")
    page.get_by_role("button", name="Fetch").click()
    expect(page.get_by_text("Line 2: Write a web address like https://example.org/page.")).to_be_visible()
    expect(addresses).to_be_focused()
    accessible(page)

    addresses.fill(f"{SITE}/bees\n{SITE}/missing\nhttp://169.254.169.254/latest/meta-data/")
    page.get_by_role("button", name="Fetch").click()
    expect(page.get_by_role("heading", name="Your pages")).to_be_visible()
    page.evaluate("window.notReloaded = true")
    rows = page.get_by_role("article")
    expect(rows).to_have_count(3)
    expect(rows.nth(0)).to_contain_text("On bees")
    expect(rows.nth(0)).to_contain_text("3 words, 1 link")
    expect(rows.nth(1)).to_contain_text("The server answered 404 Not Found.")
    expect(rows.nth(2)).to_contain_text("169.254.169.254 has no public address")
    summary = page.get_by_role("region", name="The summary")
    expect(summary).to_contain_text("1 of 3 read, 2 failed: 3 words and 1 link in 60\xa0bytes.", timeout=30_000)
    assert page.evaluate("window.notReloaded"), "the page was loaded again"
    expect(page.locator("[hx-get]")).to_have_count(0)  # nothing asks any longer
    assert fits(page)
    accessible(page)
    picture(page, "pages-read")

    page.get_by_role("link", name="Fetch other pages").click()
    expect(page.get_by_role("link", name="and 2 more")).to_be_visible()
