"""The web process's probes tell the truth, and a process with all threads stuck gives way to a new one."""

import json
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from wsgiref.util import setup_testing_defaults

import pytest
from django.core.management import call_command
from django.db import connection

from celeriac.health import web
from celeriac.health.web import Health
from config.wsgi import application
from demo.servers import free_port
from tests.processes import ROOT, running
from tests.waiting import eventually


def ask(app, path, **environ):
    """What ``app`` answers: the status and, for JSON, the body."""
    answer: dict[str, str] = {}
    setup_testing_defaults(environ)
    body = b"".join(app(environ | {"PATH_INFO": path}, lambda status, headers: answer.update(status=status)))
    return answer["status"], json.loads(body) if body.startswith(b"{") else body


@pytest.fixture(autouse=True)
def _asked_for_the_first_time(monkeypatch):
    monkeypatch.setattr(web, "_migrated", False)


# --- /healthz ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "10.0.0.7:8000", "no.such.host", ""])
def test_healthz_answers_whatever_the_host_is(host):
    assert ask(application, "/healthz", HTTP_HOST=host) == ("200 OK", {"alive": True})


def test_healthz_asks_neither_database_nor_broker(settings, monkeypatch):
    # pytest-django refuses every query here: this test has no mark for the database.
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", "redis://127.0.0.1:1/0")

    assert ask(application, "/healthz")[0] == "200 OK"


def test_every_other_path_is_the_sites():
    assert ask(Health(lambda environ, start: start("200 OK", []) or [b"the site"]), "/healthz/") == (
        "200 OK",
        b"the site",
    )


# --- /readyz -------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_readyz_is_green_when_all_is_well():
    assert ask(application, "/readyz", HTTP_HOST="no.such.host") == (
        "200 OK",
        {"database": "ok", "broker": "ok"},
    )


@pytest.mark.django_db(transaction=True)
def test_readyz_is_red_and_names_a_broker_that_is_away(monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", f"redis://127.0.0.1:{free_port()}/0")
    monkeypatch.setattr(web, "_migrated", True)
    asked = time.monotonic()

    status, checks = ask(application, "/readyz")

    assert status == "503 Service Unavailable"
    assert checks == {"database": "ok", "broker": "the broker does not answer: OperationalError"}
    assert time.monotonic() - asked < 5


@pytest.mark.django_db(transaction=True)
def test_readyz_is_red_and_names_migrations_that_wait(monkeypatch):
    call_command("migrate", "celeriac", "zero", verbosity=0)
    try:
        status, checks = ask(application, "/readyz")
    finally:
        call_command("migrate", "celeriac", verbosity=0)

    assert status == "503 Service Unavailable"
    assert checks["database"].endswith("migrations are waiting; run `manage.py migrate`")
    assert ask(application, "/readyz")[0] == "200 OK"


@contextmanager
def gunicorn(tmp_path, app, *, config="", **variables):
    """gunicorn with the stack's own configuration; yields the address and the log."""
    conf, log, bind = tmp_path / "conf.py", tmp_path / "log", f"127.0.0.1:{free_port()}"
    conf.write_text((ROOT / "services/web/gunicorn.conf.py").read_text() + config)
    variables = {"WEB_BIND": bind, "WEB_PROCESSES": "1", "WEB_THREADS": "2", "SERVICE": "web", **variables}
    command = ("gunicorn", "--config", str(conf), "--pythonpath", str(tmp_path), app)
    with running(*command, log=log, **variables):
        yield f"http://{bind}", log


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=15) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError as error:
        return 0, str(error)


def test_readyz_is_red_and_names_a_database_that_is_away_within_a_probes_patience(tmp_path):
    with gunicorn(tmp_path, "config.wsgi", POSTGRES_HOST="127.0.0.1", POSTGRES_PORT="1") as (url, _):
        eventually(lambda: get(f"{url}/readyz")[0] == 503)  # the first one imports what it needs
        asked = time.monotonic()

        status, body = get(f"{url}/readyz")

        assert status == 503
        assert json.loads(body)["database"].startswith("the database does not answer: ")
        assert json.loads(body)["broker"] == "ok"
        assert time.monotonic() - asked < 5


@pytest.mark.django_db(transaction=True)
def test_readyz_is_green_in_the_real_web_process(tmp_path):
    name = connection.settings_dict["NAME"]
    with gunicorn(tmp_path, "config.wsgi", POSTGRES_DB=name) as (url, log):
        assert eventually(lambda: get(f"{url}/readyz")[0] == 200 and get(f"{url}/readyz")), log.read_text()
        assert get(f"{url}/healthz") == (200, '{"alive": true}')


# --- A process whose threads are all stuck -------------------------------------------------------------


def test_a_process_is_stuck_when_all_its_threads_are_for_long_enough():
    doors = threading.Event()
    health = Health(lambda environ, start_response: [b""] if doors.wait(200) else [])
    threads = [threading.Thread(target=lambda: list(health({"PATH_INFO": "/"}, lambda *a: None))) for _ in range(2)]
    threads[0].start()
    eventually(lambda: len(health.busy_since) == 1)
    assert not health.stuck(threads=2, after=0)  # one thread is free
    threads[1].start()
    eventually(lambda: len(health.busy_since) == 2)

    assert not health.stuck(threads=2, after=60)  # they may be slow
    eventually(lambda: health.stuck(threads=2, after=0.1))

    doors.set()
    for thread in threads:
        thread.join()
    assert not health.stuck(threads=2, after=0)


def test_a_request_that_fails_holds_nothing():
    def fail(environ, start_response):
        raise RuntimeError("no")

    health = Health(fail)
    with pytest.raises(RuntimeError):
        health({"PATH_INFO": "/"}, lambda *a: None)

    assert not health.busy_since


STUCK_APP = """
import os, threading
from celeriac.health.web import Health

def site(environ, start_response):
    if environ["PATH_INFO"] == "/stuck":
        threading.Event().wait()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]

application = Health(site)
"""

QUICK = """

from celeriac.health import web
web.INTERVAL, web.ALIVE, web.PATIENCE = 0.2, 0.5, 0.5
"""


def test_a_process_with_all_threads_stuck_ends_itself_and_a_new_one_serves(tmp_path):
    (tmp_path / "stuck_app.py").write_text(STUCK_APP)
    with gunicorn(tmp_path, "stuck_app", config=QUICK) as (url, log):
        first = eventually(lambda: get(f"{url}/pid")[0] == 200 and get(f"{url}/pid")[1])
        threading.Thread(target=get, args=[f"{url}/stuck"], daemon=True).start()
        time.sleep(1.5)  # longer than the patience: one thread alone ends nothing
        assert get(f"{url}/pid") == (200, first)

        threading.Thread(target=get, args=[f"{url}/stuck"], daemon=True).start()

        eventually(lambda: (answer := get(f"{url}/pid"))[0] == 200 and answer[1] != first)
        said = log.read_text()
        assert "all threads are stuck in their requests; this process ends itself" in said
        assert "stuck_app.py" in said  # every thread's traceback says where
