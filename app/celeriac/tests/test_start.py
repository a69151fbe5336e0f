"""What a role loads, and what it does without."""

import sys

import pytest

from tests.processes import run

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
    unwanted = [
        "config.urls",
        "celeriac.admin",
        "demos.views",
        "celery.bin",
        "prompt_toolkit",
        "tornado",
        "PIL",
        "httpx",
    ]
    assert said(WORKER + LOADED.format(names=unwanted), service) == "[]"


def test_a_task_finds_the_addresses_of_the_admins_pages_all_the_same():
    address = 'from django.urls import reverse; print(reverse("admin:accounts_user_changelist"))'
    assert said(WORKER + address, "worker") == "/admin/accounts/user/"


def test_flower_that_only_looks_loads_neither_django_nor_tasks():
    names = ["django.db", "django.apps", "config.celery", "demos.widgets.tasks"]
    assert said(FLOWER.format(read_only=True) + LOADED.format(names=names), "flower") == "[]"


def test_flower_that_may_change_something_knows_the_tasks():
    known = 'print("config.tasks.debug_task" in app.tasks)'
    assert said(FLOWER.format(read_only=False) + known, "flower") == "True"
