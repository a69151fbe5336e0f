"""What a role loads, and what it does without."""

import socket
import sys

import pytest
from django.db import connection

from tests.processes import run, running
from tests.waiting import eventually

LOADED = """
import sys
print([name for name in {names} if name in sys.modules])
"""
WORKER = """
import celeriac.start
from config.celery import app
app.loader.import_default_modules()
"""
FLOWER = """
from celeriac.start import watched
app = watched(read_only={read_only})
app.loader.import_default_modules()
"""


def said(code: str, service: str) -> str:
    done = run(sys.executable, "-c", code, SERVICE=service)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("service", ["worker", "beat"])
def test_a_worker_and_beat_load_no_pages_no_command_line_and_no_flower(service):
    unwanted = ["config.urls", "celeriac.admin", "celery.bin", "prompt_toolkit", "tornado"]
    assert said(WORKER + LOADED.format(names=unwanted), service) == "[]"


def test_a_task_finds_the_addresses_of_the_admins_pages_all_the_same():
    address = 'from django.urls import reverse; print(reverse("admin:accounts_user_changelist"))'
    assert said(WORKER + address, "worker") == "/admin/accounts/user/"


def test_flower_that_only_looks_loads_neither_django_nor_tasks():
    names = ["django.db", "django.apps", "config.celery", "config.tasks"]
    assert said(FLOWER.format(read_only=True) + LOADED.format(names=names), "flower") == "[]"


def test_flower_that_may_change_something_knows_the_tasks():
    known = 'print("config.tasks.debug_task" in app.tasks)'
    assert said(FLOWER.format(read_only=False) + known, "flower") == "True"


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "variables",
    [{"CELERY_WORKER_POOL": "threads"}, {"CELERY_WORKER_POOL": "solo"}, {"CELERY_WORKER_CONCURRENCY": "auto"}],
    ids=str,
)
def test_a_worker_takes_from_settings_what_the_command_line_would_say(tmp_path, variables):
    command, log = (sys.executable, "-m", "celeriac.start", "worker", "default"), tmp_path / "log"
    settings = {"SERVICE": "worker", "LOG_LEVEL": "info", "POSTGRES_DB": connection.settings_dict["NAME"], **variables}
    with running(*command, log=log, **settings) as worker:
        eventually(lambda: "ready." in log.read_text() or worker.poll() is not None)
        assert f"default@{socket.gethostname()} ready." in log.read_text()
