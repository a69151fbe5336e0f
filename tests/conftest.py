"""The one stack that the tests in stack/ and browser/ share, started from nothing and removed again."""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.stack.mailserver import MailServer
from tests.stack.project import IMAGE, Stack, docker, fresh_clone, run

BASE_IMAGES = {
    "PYTHON_IMAGE": "python:3.13-slim-trixie",
    "POSTGRES_IMAGE": "postgres:17-trixie",
    "REDIS_IMAGE": "redis:8-trixie",
    "NGINX_IMAGE": "nginx:stable-trixie",
}
STARTED = pytest.StashKey[datetime]()


def missing(browser: bool) -> str:
    """What this machine lacks, in one sentence, or an empty text."""
    if not shutil.which("docker") or run(["docker", "info"], check=False).returncode:
        return "no Docker engine answers"
    for image in BASE_IMAGES.values():
        if docker("image", "inspect", image, check=False).returncode:
            return f"the image {image} is missing; run `make images`, or `docker pull {image}`"
    if browser and not shutil.which("chromium"):
        return "chromium is missing; apt-get install chromium"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.get_closest_marker("stack")]
    reasons = {browser: missing(browser) for browser in {bool(item.get_closest_marker("browser")) for item in ours}}
    for item in ours:
        if reason := reasons[bool(item.get_closest_marker("browser"))]:
            item.add_marker(pytest.mark.skip(reason=reason))
        item.add_marker(pytest.mark.timeout(900))  # the first one may build the image


@pytest.fixture(scope="session")
def mail_server() -> Iterator[MailServer]:
    server = MailServer()
    server.controller.start()
    yield server
    server.controller.stop()


@pytest.fixture
def mail(mail_server: MailServer) -> Iterator[MailServer]:
    mail_server.reset()
    yield mail_server
    mail_server.reset()


@pytest.fixture(scope="session")
def _running(tmp_path_factory: pytest.TempPathFactory, mail_server: MailServer) -> Iterator[Stack]:
    stack = Stack(fresh_clone(tmp_path_factory.mktemp("clone")), EMAIL_URL=mail_server.url)
    stack.remove()  # what a run that was killed has left
    images: set[str] = set()
    try:
        stack.up()
        images.add(stack.container("web")["Image"])  # without a name as soon as a test builds the next one
        yield stack
    finally:
        stack.remove()
        docker("image", "rm", IMAGE, *images, check=False)


@pytest.fixture
def stack(_running: Stack, mail: MailServer, request: pytest.FixtureRequest) -> Stack:
    """The running stack, healthy, with a mail server that takes every mail."""
    request.node.stash[STARTED] = datetime.now(UTC)
    try:
        _running.healthy()
    except pytest.fail.Exception:
        _running.up()  # what one test left behind is no reason for the next to fail, too
        raise
    return _running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """What the services said while a test failed."""
    report = yield
    stack, started = (getattr(item, "funcargs", {}).get("stack"), item.stash.get(STARTED, None))
    if report.failed and stack and started:
        logs = stack.compose("logs", "--no-color", "--since", started.isoformat(), "--tail", "40", check=False)
        report.sections.append(("Containers", stack.make("ps", check=False).stdout))
        report.sections.append(
            ("Logs", "\n".join(line.removeprefix("\x1b[2K")[:600] for line in logs.stdout.splitlines()))
        )
    return report


@pytest.fixture(scope="session")
def output() -> Path:
    """Where pictures go."""
    folder = Path(__file__).parents[1] / "test-output"
    folder.mkdir(exist_ok=True)
    return folder
