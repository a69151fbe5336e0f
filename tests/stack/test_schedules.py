"""Schedules are edited in the admin, while everything runs, and an edit is the operator's for good."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stack.project import Stack
from tests.stack.visitor import Visitor
from tests.waiting import eventually

pytestmark = pytest.mark.stack

ADMIN = "/admin/django_celery_beat"
SEEDED = {"clear expired sessions", "clear expired results", "clear old history"}
SEEDED |= {"daily message", "delete old uploads"}  # the demos'
#: Beat looks for changes every two seconds; then the interval has to pass.
SOON = 30


@pytest.fixture
def admin(stack: Stack) -> Iterator[Visitor]:
    """The admin; what it creates is gone afterwards."""
    admin = stack.admin()
    yield admin
    for row in stack.sql("SELECT id, name FROM django_celery_beat_periodictask"):
        if row["name"] not in SEEDED:
            assert admin.submit(f"{ADMIN}/periodictask/{row['id']}/delete/").status == 302


def interval(stack: Stack, admin: Visitor, seconds: int) -> int:
    find = f"SELECT id FROM django_celery_beat_intervalschedule WHERE every = {seconds} AND period = 'seconds'"
    if not stack.sql(find):
        saved = admin.submit(f"{ADMIN}/intervalschedule/add/", "intervalschedule_form", every=seconds, period="seconds")
        assert saved.status == 302, errors(saved.text)
    return stack.sql(find)[0]["id"]


def errors(html: str) -> list[str]:
    return re.findall(r'class="errorlist[^"]*"[^>]*>.*?</ul>', html, re.DOTALL)


def save(admin: Visitor, path: str, **fields: Any) -> None:
    saved = admin.submit(f"{ADMIN}/periodictask/{path}", "periodictask_form", **fields)
    assert saved.status == 302, errors(saved.text)


def add(stack: Stack, admin: Visitor, name: str, **fields: Any) -> int:
    every_second = interval(stack, admin, 1)
    save(admin, "add/", name=name, task="config.tasks.debug_task", interval=every_second, **fields)
    return stack.sql(f"SELECT id FROM django_celery_beat_periodictask WHERE name = '{name}'")[0]["id"]


def runs(stack: Stack, name: str) -> list[dict[str, Any]]:
    return stack.results(f"periodic_task_name = '{name}' AND status = 'SUCCESS'")


def test_a_schedule_made_in_the_admin_fires_without_a_restart(stack: Stack, admin: Visitor) -> None:
    beat = stack.container("beat")["State"]["StartedAt"]
    add(stack, admin, "every second")
    eventually(lambda: len(runs(stack, "every second")) >= 3, SOON, "it has fired three times")
    assert {run["worker"].partition("@")[0] for run in runs(stack, "every second")} == {"default"}
    assert stack.container("beat")["State"]["StartedAt"] == beat


def test_an_edited_schedule_fires_as_edited_and_a_disabled_one_stops(stack: Stack, admin: Visitor) -> None:
    number = add(stack, admin, "edited")
    save(admin, f"{number}/change/", interval=interval(stack, admin, 3600))
    save(admin, f"{number}/change/", interval=interval(stack, admin, 1), queue="heavy_tasks")

    def on_heavy() -> int:
        return sum(run["worker"].startswith("heavy_tasks@") for run in runs(stack, "edited"))

    eventually(lambda: on_heavy() >= 2, SOON, "it has fired on the other queue")

    save(admin, f"{number}/change/", enabled=None)
    sent_last = "SELECT max(date_created) FROM django_celery_results_taskresult WHERE periodic_task_name = 'edited'"
    silent = f"SELECT 1 WHERE ({sent_last}) < now() - interval '5 seconds'"
    eventually(lambda: stack.sql(silent), SOON, "it fires no more")


def test_a_schedule_on_an_unknown_queue_or_task_does_not_stop_the_others(stack: Stack, admin: Visitor) -> None:
    number = add(stack, admin, "typo in its queue")
    edit = f"PeriodicTask.objects.filter(pk={number}).update(queue='no_such_queue'); PeriodicTasks.update_changed()"
    stack.python(f"from django_celery_beat.models import PeriodicTask, PeriodicTasks; {edit}")  # no form would
    add(stack, admin, "unharmed")
    eventually(lambda: len(runs(stack, "unharmed")) >= 2, SOON)
    assert stack.health()["beat"] == "healthy"


def test_what_an_operator_edits_in_a_seeded_schedule_survives_the_next_up(stack: Stack, admin: Visitor) -> None:
    rows = stack.sql("SELECT id, name, queue, enabled FROM django_celery_beat_periodictask")
    assert {row["name"] for row in rows} == SEEDED
    assert all(row["enabled"] for row in rows)
    number = next(row["id"] for row in rows if row["name"] == "clear expired sessions")
    save(admin, f"{number}/change/", enabled=None, description="Edited by an operator.", queue="heavy_tasks")
    edited = f"SELECT enabled, description, queue FROM django_celery_beat_periodictask WHERE id = {number}"
    expected = [{"enabled": False, "description": "Edited by an operator.", "queue": "heavy_tasks"}]
    assert stack.sql(edited) == expected
    stack.up()
    stack.compose("restart", "beat")
    stack.healthy()
    assert stack.sql(edited) == expected
    save(admin, f"{number}/change/", enabled="on", description="", queue="")


def test_the_seeded_clean_up_goes_to_a_queue_that_is_read(stack: Stack, admin: Visitor) -> None:
    number = stack.sql("SELECT id FROM django_celery_beat_periodictask WHERE name = 'clear expired results'")[0]["id"]
    fields = {"action": "run_tasks", "_selected_action": number, "csrfmiddlewaretoken": token(admin)}
    assert admin.post(f"{ADMIN}/periodictask/", fields).status == 302
    eventually(lambda: stack.results("task_name = 'celery.backend_cleanup' AND status = 'SUCCESS'"), SOON)


def token(visitor: Visitor) -> str:
    return next(cookie.value for cookie in visitor.cookies if cookie.name == "csrftoken") or ""
