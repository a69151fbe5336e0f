"""A real browser at two sizes."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.stack.project import Stack

SIZES = {"desktop": (1280, 800), "phone": (390, 844)}
#: Without these Chromium wants privileges, a large /dev/shm, or to talk to its makers.
OPTIONS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking"]

expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=OPTIONS)
        yield browser
        browser.close()


@pytest.fixture(params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def context(chromium: Browser, stack: Stack, size: str) -> Iterator[BrowserContext]:
    width, height = SIZES[size]
    context = chromium.new_context(
        base_url=stack.site,
        viewport={"width": width, "height": height},
        has_touch=size == "phone",
        is_mobile=size == "phone",
        color_scheme="light",
        reduced_motion="reduce",
    )
    context.set_default_timeout(60_000)
    yield context
    context.close()


def is_ours(message: ConsoleMessage) -> bool:
    """Whether a page is at fault; not the machine, whose networks change when another stack starts on it."""
    return message.type == "error" and not re.search("ERR_NETWORK_CHANGED|htmx:", message.text)


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page on which no script may fail and no file may be missing."""
    page, failures = context.new_page(), []
    page.on("pageerror", lambda error: failures.append(str(error)))
    page.on("console", lambda message: is_ours(message) and failures.append(message.text))
    page.on("response", lambda answer: answer.status >= 400 and failures.append(f"{answer.status} {answer.url}"))
    yield page
    assert not failures


@pytest.fixture
def picture(output: Path, size: str) -> Callable[[Page, str], None]:
    def take(page: Page, name: str) -> None:
        page.screenshot(path=output / f"{name}-{size}.png", full_page=size == "phone")

    return take


@pytest.fixture(scope="session")
def accessible() -> Callable[[Page], None]:
    """No violation that axe calls serious or critical."""
    axe = Axe()

    def check(page: Page) -> None:
        found = axe.run(page).response["violations"]
        serious = [
            f"{each['id']}: {each['help']}: {[node['html'][:120] for node in each['nodes']]}"
            for each in found
            if each["impact"] in {"serious", "critical"}
        ]
        assert not serious

    return check
