"""`make demo`: the whole stack without Docker, from a copy of the repository, as a person would start it."""

import http.cookiejar
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from demo.servers import free_port, wait_for_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
#: What tests/servers.py sets for the tests themselves; a person's shell has none of it.
OURS = ("POSTGRES_", "REDIS_", "CELERY_", "DJANGO_", "STATE_DIR", "PUBLIC_URL", "LOG_LEVEL")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)
    for folder in ("app", "demo", "services"):
        shutil.copytree(ROOT / folder, tmp_path / "celeriac" / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "celeriac"


class Demo:
    def __init__(self, clone: Path) -> None:
        self.site, self.flower = free_port(), free_port()
        self.log = clone / "log"
        environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        environment |= {"HTTP_PORT": str(self.site), "FLOWER_PORT": str(self.flower)}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "demo"], cwd=clone, env=environment, stdout=log, stderr=log
            )
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.open = urllib.request.build_opener(cookies).open

    def ready(self) -> None:
        eventually(lambda: self.log.read_text().count(" ready.") == 2 or self.process.poll() is not None, 180)
        for port in (self.site, self.flower):
            wait_for_port(port, self.process, 60)

    def get(self, path: str) -> str:
        with self.open(f"http://localhost:{self.site}{path}") as response:
            return response.read().decode()

    def post(self, path: str, **fields: str) -> str:
        """Send the form at ``path``; returns the page it led to."""
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', self.get(path))
        assert token
        data = urllib.parse.urlencode({"csrfmiddlewaretoken": token[1], **fields}).encode()
        with self.open(f"http://localhost:{self.site}{path}", data) as response:
            return response.read().decode()

    def admin_password(self) -> str:
        found = re.search(r"/admin/ +admin +(\S+)", self.log.read_text())
        assert found
        return found[1]


@contextmanager
def running_demo(clone: Path) -> Iterator[Demo]:
    demo = Demo(clone)
    try:
        demo.ready()
        yield demo
    finally:
        demo.process.send_signal(signal.SIGINT)  # Ctrl-C
        demo.process.wait(60)


def processes_below(folder: Path) -> list[str]:
    """Command lines of what still runs with this folder in them, or works in it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in (process / "cmdline").read_text() or str(folder) in str((process / "cwd").readlink()):
                found.append((process / "cmdline").read_text())
        except OSError:
            continue
    return found


def test_the_demo_delivers_a_feedback_keeps_its_data_and_cleans_up(clone):
    with running_demo(clone) as demo:
        page = demo.post("/feedback/", email="visitor@example.net", message="It works without Docker.")
        assert "It works without Docker." in page
        mailbox = clone / ".demo" / "state" / "mail"
        eventually(lambda: any("without Docker" in mail.read_text() for mail in mailbox.iterdir()))
        password = demo.admin_password()
        assert "Task results" in demo.post("/admin/login/?next=/admin/", username="admin", password=password)
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://localhost:{demo.flower}/")
    assert processes_below(clone) == []

    with running_demo(clone) as demo:
        assert demo.admin_password() == password
        demo.post("/admin/login/?next=/admin/", username="admin", password=password)
        assert "visitor@example.net" in demo.get("/admin/feedback/feedback/")


def test_a_taken_port_is_named_with_the_way_out(clone):
    port = free_port()
    environment = {**os.environ, "HTTP_PORT": str(port)}
    with subprocess.Popen([sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]) as other:
        try:
            eventually(lambda: subprocess.run(["bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{port}"]).returncode == 0)
            done = subprocess.run(
                [sys.executable, "-m", "demo"], cwd=clone, env=environment, capture_output=True, text=True
            )
        finally:
            other.kill()
    assert done.returncode == 1
    assert done.stderr == f"Port {port} is taken; free it, or choose another one: HTTP_PORT={port + 1} make demo\n"
