"""Jobs that have ended are kept for ``JOBS_KEEP_DAYS`` days; those that somebody has still to look after, for ever."""

from datetime import timedelta

import pytest
from celery import current_app
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from celeriac.cleanup import BATCH
from celeriac.jobs.tests.test_command import job
from celeriac.models import Job
from celeriac.tasks import clear_history

pytestmark = pytest.mark.django_db


def age(pk, days):
    then = timezone.now() - timedelta(days=days)
    Job.objects.filter(pk=pk).update(created_at=then, finished_at=then)


@pytest.mark.parametrize("state", ["succeeded", "cancelled"])
def test_what_has_ended_goes_after_its_time(settings, state):
    settings.JOBS_KEEP_DAYS = 3
    old, young = job(state), job(state)
    age(old, 3.1)
    age(young, 2.9)

    clear_history()

    assert list(Job.objects.values_list("pk", flat=True)) == [young]


def test_what_failed_stays_with_all_that_is_known_of_it():
    pk = job("failed", error="ValueError: no", traceback="Traceback", attempts=3)
    age(pk, 999)
    before = Job.objects.values().get()

    clear_history()

    assert Job.objects.values().get() == before


@pytest.mark.parametrize("state", ["waiting", "running", "returned"])
def test_what_has_not_ended_stays_however_old(state):
    pk = job(state)
    Job.objects.update(created_at=timezone.now() - timedelta(days=999))

    clear_history()

    assert list(Job.objects.values_list("pk", flat=True)) == [pk]


def test_results_that_never_expire_do_not_keep_jobs(monkeypatch):
    monkeypatch.setitem(current_app.conf, "result_expires", 0)
    age(job("succeeded"), 30)

    clear_history()

    assert not Job.objects.exists()


def test_they_go_in_bounded_batches_and_none_is_read():
    model = job("succeeded")
    age(model, 30)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO celeriac_job SELECT (jsonb_populate_record(job, jsonb_build_object('id', n::text))).* "
            "FROM celeriac_job AS job, generate_series(1, %s) AS n",
            [3 * BATCH - 1],
        )

    with CaptureQueriesContext(connection) as queries:
        clear_history()

    assert not Job.objects.exists()
    deletes = [query["sql"] for query in queries if query["sql"].startswith('DELETE FROM "celeriac_job"')]
    assert len(deletes) >= 3
    assert not any('"body"' in query["sql"] for query in queries)
