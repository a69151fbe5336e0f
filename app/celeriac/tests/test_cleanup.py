"""Clean-up: what is old goes, what is young stays, and a million rows take no more memory than a few."""

import json
import os
import sys
from datetime import timedelta

import psycopg
import pytest
from celery import current_app
from celery.exceptions import SoftTimeLimitExceeded
from django.contrib.sessions.backends.file import SessionStore
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.models.signals import post_delete
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from django_celery_results.models import ChordCounter, GroupResult, TaskResult

from celeriac.cleanup import delete_in_batches
from celeriac.models import ScheduleRun, TrackedTask
from celeriac.tasks import clear_history, clear_sessions
from tests.processes import run

pytestmark = pytest.mark.django_db

#: Results expire after seven days.
YOUNG, OLD = timedelta(days=6), timedelta(days=8)

MILLION = """
    INSERT INTO django_celery_results_taskresult
        (task_id, status, content_type, content_encoding, result, task_args, date_created, date_done)
    SELECT n, 'SUCCESS', 'application/json', 'utf-8', repeat('r', CASE WHEN n <= 10000 THEN 20000 ELSE 20 END), '[]',
        now(), now() - make_interval(days => CASE WHEN n % 1000 = 0 THEN 6 ELSE 8 END)
    FROM generate_series(1, 1000000) AS n"""

#: Runs a task in a process of its own, and prints by how many MB its peak memory has risen meanwhile.
MEASURED = """
import re, sys
from pathlib import Path
import django

def peak():  # of this program alone; getrusage() begins with that of the process which started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

django.setup()
from celery import current_app
task = current_app.tasks[sys.argv[1]]
task.backend, django.db.connection.ensure_connection()
before = peak()
task.apply(throw=True)
print(peak() - before)
"""


def result_from(age, name="task", status="SUCCESS"):
    TaskResult.objects.create(task_id=name, status=status)
    TaskResult.objects.filter(task_id=name).update(date_done=timezone.now() - age)


def left(model, field="task_id"):
    return sorted(model.objects.values_list(field, flat=True))


# --- The batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4, 5, 12, 100])
def test_exactly_the_rows_that_were_asked_for_are_deleted_and_counted(size):
    for n in range(20):
        result_from(OLD if n < 12 else YOUNG, f"{n:02}")

    assert delete_in_batches(TaskResult.objects.filter(date_done__lt=timezone.now() - timedelta(days=7)), size) == 12

    assert left(TaskResult) == [f"{n:02}" for n in range(12, 20)]


@pytest.mark.django_db(transaction=True)
def test_what_was_deleted_before_an_interruption_stays_deleted():
    for n in range(20):
        result_from(OLD, f"{n:02}")
    deletes = []

    def time_is_up(execute, sql, *rest):
        deletes.extend([sql] if sql.startswith("DELETE") else [])
        if len(deletes) == 3:
            raise SoftTimeLimitExceeded
        return execute(sql, *rest)

    with connection.execute_wrapper(time_is_up), pytest.raises(SoftTimeLimitExceeded):
        delete_in_batches(TaskResult.objects.all(), size=5)

    with psycopg.connect(**connection.get_connection_params()) as somebody_else:
        rows = somebody_else.execute("SELECT task_id FROM django_celery_results_taskresult ORDER BY 1").fetchall()
    assert [name for (name,) in rows] == [f"{n:02}" for n in range(10, 20)]


def test_whoever_listens_to_deletions_hears_of_each_and_no_text_is_read_for_it(request):
    for n in range(6):
        result_from(OLD, f"{n}")
    heard = []

    def listen(instance, **kwargs):
        heard.append(instance.pk)

    post_delete.connect(listen, sender=TaskResult)
    request.addfinalizer(lambda: post_delete.disconnect(listen, sender=TaskResult))
    with CaptureQueriesContext(connection) as queries:
        delete_in_batches(TaskResult.objects.all(), size=2)

    assert len(heard) == 6
    assert not any('"result"' in query["sql"] for query in queries)


# --- Results -----------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_million_results_with_long_texts_among_them_are_cleared_in_flat_memory():
    with connection.cursor() as cursor:
        cursor.execute(MILLION)

    done = run(
        *(sys.executable, "-c", MEASURED, "celery.backend_cleanup"),
        POSTGRES_DB=connection.settings_dict["NAME"],
        DJANGO_SETTINGS_MODULE="config.settings",
    )

    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 30  # MB; the texts of one batch are a hundred
    assert TaskResult.objects.count() == 1000
    assert not TaskResult.objects.filter(date_done__lt=timezone.now() - timedelta(days=7)).exists()


def test_groups_expire_like_tasks():
    for name, age in {"young": YOUNG, "old": OLD}.items():
        GroupResult.objects.create(group_id=name)
        GroupResult.objects.filter(group_id=name).update(date_done=timezone.now() - age)

    current_app.backend.cleanup()

    assert left(GroupResult, "group_id") == ["young"]


def test_the_counter_of_a_chord_goes_when_it_can_never_be_complete():
    def chord(name):
        parts = [current_app.AsyncResult(f"{name} {n}").as_tuple() for n in range(2)]
        ChordCounter.objects.create(group_id=name, sub_tasks=json.dumps(parts), count=1)

    for name in ("a part has expired", "a part is young", "a part is retried after days", "no part has begun"):
        chord(name)
    result_from(OLD, "a part has expired 1")
    result_from(YOUNG, "a part is young 1")
    result_from(OLD, "a part is retried after days 1", "RETRY")

    current_app.backend.cleanup()

    assert left(ChordCounter, "group_id") == ["a part is retried after days", "a part is young", "no part has begun"]


def test_results_that_never_expire_stay(monkeypatch):
    result_from(timedelta(days=9999))
    monkeypatch.setattr(current_app.backend, "expires", 0)

    current_app.backend.cleanup()

    assert left(TaskResult) == ["task"]


# --- The platform's own tables -----------------------------------------------------------------------------


def test_who_started_a_task_is_forgotten_with_its_result():
    for name, age in {"young": YOUNG, "old": OLD}.items():
        TrackedTask.objects.create(task_id=name, label=name)
        TrackedTask.objects.filter(task_id=name).update(started_at=timezone.now() - age)

    clear_history()

    assert left(TrackedTask) == ["young"]


@pytest.fixture
def schedule():
    """A schedule whose latest run is ten days old."""
    interval = IntervalSchedule.objects.create(every=1, period="days")
    task = PeriodicTask.objects.create(name="report", task="celeriac.clear_sessions", interval=interval)
    ran(task, "latest", days=10)
    return task


def ran(task, name, days, **fields):
    due_at = timezone.now() - timedelta(days=days)
    ScheduleRun.objects.create(periodic_task=task, task_id=name, due_at=due_at, **{"sent_at": due_at, **fields})


def test_old_runs_of_a_schedule_are_forgotten_but_for_its_latest(schedule):
    ran(schedule, "older", days=11)
    ran(schedule, "skipped", days=12, kind=ScheduleRun.Kind.SKIPPED, sent_at=None)
    ran(schedule, "could not be sent", days=13, sent_at=None, error="ValueError: no such queue")

    clear_history()

    assert left(ScheduleRun) == ["latest"]


def test_young_runs_of_a_schedule_stay(schedule):
    ran(schedule, "young", days=5)
    ran(schedule, "younger", days=4)

    clear_history()

    assert left(ScheduleRun) == ["young", "younger"]


def test_a_run_that_has_still_to_be_sent_is_never_forgotten(schedule):
    ran(schedule, "to be sent", days=300, sent_at=None)

    clear_history()

    assert left(ScheduleRun) == ["latest", "to be sent"]


def test_history_that_never_expires_stays(schedule, monkeypatch):
    ran(schedule, "older", days=9999)
    monkeypatch.setitem(current_app.conf, "result_expires", 0)

    clear_history()

    assert left(ScheduleRun) == ["latest", "older"]


# --- Sessions ----------------------------------------------------------------------------------------------


def test_expired_sessions_go_in_batches_and_the_others_stay():
    with connection.cursor() as cursor:
        cursor.execute("""
            INSERT INTO django_session
            SELECT n, '', now() + make_interval(secs => CASE WHEN n < 100 THEN 60 ELSE -1 END)
            FROM generate_series(1, 12000) AS n""")

    with CaptureQueriesContext(connection) as queries:
        clear_sessions()

    assert sum(query["sql"].startswith("DELETE") for query in queries) == 3
    assert Session.objects.count() == 99


def test_sessions_kept_elsewhere_are_cleared_there(settings, tmp_path):
    settings.SESSION_ENGINE = "django.contrib.sessions.backends.file"
    settings.SESSION_FILE_PATH = str(tmp_path)
    for last_used in (0, timezone.now().timestamp()):
        session = SessionStore()
        session.create()
        os.utime(tmp_path / f"sessionid{session.session_key}", (last_used, last_used))

    clear_sessions()

    assert [path.stat().st_mtime > 0 for path in tmp_path.iterdir()] == [True]
