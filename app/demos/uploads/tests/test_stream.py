"""A large file through the real site and a real worker, which grow by nothing; and what interrupts one."""

import http.client
import re
import socket
import sys
from http.cookies import SimpleCookie
from pathlib import Path

import pytest
from celery import current_app
from django.conf import settings as django_settings
from django.db import connection

from celeriac.tracking.state import state_of
from demo.servers import free_port, wait_for_port
from demos.uploads.models import Upload
from demos.uploads.tests.conftest import files_in
from tests.processes import ROOT, run, running
from tests.waiting import eventually

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("_no_posts_yet")]

MB = 10**6
MEDIA = django_settings.STATE_DIR / "media"  # that of the site's and the worker's processes
ROW = b"%d," + b",".join([b"a text that is neither short nor long but like most texts"] * 17) + b"\n"  # 1 KB


def found(pattern, text):
    match = re.search(pattern, text)
    assert match
    return match[1]


def newest():
    return Upload.objects.latest("created_at")


def peak(pid):
    """The most memory this process has had, in MB."""
    return int(found(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())) / 1000


def csv_of(size):
    """A CSV file of about ``size`` bytes, in pieces."""
    yield b"number," + b",".join(b"text %d" % n for n in range(17)) + b"\n"
    piece = b"".join(ROW % number for number in range(1000))
    for _ in range(size // len(piece)):
        yield piece


class Site:
    """gunicorn with one process, as its container starts it; and a visitor with a session."""

    def __init__(self, port, process):
        self.port, self.process = port, process
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        page = self.get("/uploads/")
        self.token = found(r'csrfmiddlewaretoken" value="(\w+)"', page)

    def get(self, path):
        self.http.request("GET", path, headers={"Cookie": getattr(self, "cookie", "")})
        return self.answer()

    def answer(self):
        response = self.http.getresponse()
        self.status = response.status
        if cookies := response.headers.get_all("Set-Cookie"):
            kept = SimpleCookie(getattr(self, "cookie", ""))
            for cookie in cookies:
                kept.load(cookie)
            self.cookie = "; ".join(f"{name}={morsel.value}" for name, morsel in kept.items())
        return response.read().decode()

    def head(self, size):
        """The request up to the file in it."""
        form = (
            f'--x\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n{self.token}\r\n'
            '--x\r\nContent-Disposition: form-data; name="file"; filename="large.csv"\r\n\r\n'
        ).encode()
        headers = {
            "Content-Type": "multipart/form-data; boundary=x",
            "Content-Length": str(len(form) + size + len(b"\r\n--x--\r\n")),
            "Cookie": self.cookie,
        }
        return form, headers

    def post(self, pieces, size):
        form, headers = self.head(size)

        def body():
            yield form
            yield from pieces
            yield b"\r\n--x--\r\n"

        self.http.request("POST", "/uploads/", body(), headers)
        return self.answer()

    def worker_pid(self):
        (pid,) = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return int(pid)


@pytest.fixture(scope="module")
def static_files(tmp_path_factory):
    """The pages of a real site name the files that were collected."""
    folder = str(tmp_path_factory.mktemp("static"))
    done = run(sys.executable, "manage.py", "collectstatic", "--no-input", STATIC_ROOT=folder, SERVICE="build")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def site(transactional_db, tmp_path, static_files):
    port = free_port()
    variables = {
        "POSTGRES_DB": connection.settings_dict["NAME"],
        "STATIC_ROOT": static_files,
        "WEB_BIND": f"127.0.0.1:{port}",
        "WEB_PROCESSES": "1",
        "LOG_LEVEL": "WARNING",
    }
    with running(str(ROOT / "services/web/start"), log=tmp_path / "web.log", **variables) as process:
        wait_for_port(port, process)
        site = Site(port, process)
        yield site
        site.http.close()  # or the process would wait for it
        Upload.objects.all().delete()


@pytest.fixture
def worker(start_worker):
    """On the broker that the site uses, with nothing left in it."""
    with current_app.connection_for_write() as connection:
        connection.default_channel.queue_purge("heavy_tasks")
    return start_worker("-Q", "heavy_tasks", "-c", "1", CELERY_BROKER_URL=str(current_app.conf.broker_url))


@pytest.mark.timeout(600)
def test_a_large_file_costs_web_and_worker_no_more_memory_than_a_small_one(site, worker):
    pids = (site.worker_pid(), worker.children()[0])
    peaks = []
    for size in (MB, 200 * MB):
        length = sum(map(len, csv_of(size)))
        site.post(csv_of(size), length)
        assert site.status == 302
        upload = newest()
        assert upload.size == length
        if size > MB:
            assert upload.state == "working"  # answered before it is processed
            shown = eventually(lambda: (state_of(upload.task_id).progress or {}).get("percent"), every=0.1)  # noqa: B023
            assert 0 < shown < 100
        eventually(lambda: newest().state == "done", 240)
        peaks.append([peak(pid) for pid in pids])

    rows = sum(piece.count(b"\n") for piece in csv_of(200 * MB)) - 1
    assert newest().summary == f"{rows:,} rows, 18 columns"
    grown = [after - before for before, after in zip(*peaks, strict=True)]
    assert max(grown) < 40, f"web and worker grew by {grown} MB"


def test_somebody_who_goes_away_while_sending_leaves_nothing_behind(site):
    before = files_in(MEDIA)
    form, headers = site.head(50 * MB)
    with socket.create_connection(("127.0.0.1", site.port)) as connection:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        connection.sendall(f"POST /uploads/ HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode() + form)
        connection.sendall(b"a,b\n" * MB)
        assert eventually(lambda: len(files_in(MEDIA)) == len(before) + 1)

    eventually(lambda: files_in(MEDIA) == before)
    assert not Upload.objects.exists()


def test_what_is_too_large_gets_an_answer_and_no_reset_connection(site):
    """The first 20 MB of 3 GB are under way before the answer is read, as in a browser."""
    page = site.post((bytes(MB) for _ in range(20)), 3000 * MB)

    assert site.status == 413
    assert "This file is larger than 2048 MB." in page
