"""A durable task runs to its end, whatever is killed, emptied or cut off: with a real worker."""

import os
import signal
import time
from contextlib import suppress

import pytest
from celery import chain, chord, group
from celery.result import AsyncResult
from django.db import transaction

from celeriac.broker import BROKER_AWAY
from celeriac.jobs.execution import LEASE
from celeriac.jobs.tests.conftest import effects
from celeriac.models import Job
from tests import tasks
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_job_runs_and_its_row_tells(app, start_worker, ended, notes):
    start_worker()
    job = ended(tasks.durable.delay(notes.path, "job").id)

    assert (job.state, job.attempts, job.crashes, job.result) == ("succeeded", 1, 0, '"job"')
    assert notes() == ["job began", "job ended"]
    assert AsyncResult(job.id).get(timeout=60) == "job"


def test_a_job_of_a_transaction_that_is_rolled_back_never_was(app, notes):
    with transaction.atomic():
        tasks.durable.delay(notes.path, "job")
        transaction.set_rollback(True)

    assert not Job.objects.exists()


def test_while_redis_is_away_the_call_succeeds_at_once_and_the_job_runs_later(app, broker, start_worker, ended, notes):
    broker.stop()
    began = time.monotonic()
    ids = [tasks.durable.delay(notes.path, f"job {number}").id for number in range(20)]
    assert time.monotonic() - began < 15

    broker.start()
    start_worker()
    for job_id in ids:
        assert ended(job_id).state == "succeeded"
    assert len(notes()) == 40


def test_a_long_job_runs_once_although_redis_is_away_for_longer_than_its_lease(
    app, broker, start_worker, reconcile, ended, notes
):
    start_worker("-c", "1")
    job_id = tasks.durable.delay(notes.path, "job", LEASE + 12).id
    eventually(lambda: notes())

    broker.stop()
    away_until = time.monotonic() + LEASE + 6
    while time.monotonic() < away_until:
        with suppress(*BROKER_AWAY):
            reconcile()
        time.sleep(0.5)
    broker.start()

    job = ended(job_id, 60)
    assert (job.state, job.attempts, job.crashes) == ("succeeded", 1, 0)
    assert notes() == ["job began", "job ended"]


def test_a_job_survives_a_redis_flush(app, broker, start_worker, ended, reconcile, notes):
    ids = [tasks.durable.delay(notes.path, f"job {number}").id for number in range(20)]
    reconcile()
    broker.command("FLUSHALL")
    start_worker()

    for job_id in ids:
        assert ended(job_id).state == "succeeded"
    assert len(notes()) == 40


def test_a_job_survives_the_death_of_its_worker_and_has_its_effect_once(app, start_worker, ended):
    worker = start_worker("-c", "1")
    job_id = tasks.effect.delay("once", 4).id
    eventually(lambda: Job.objects.get(pk=job_id).state == "running")
    for pid in [worker.process.pid, *worker.children()]:
        os.kill(pid, signal.SIGKILL)
    worker.process.wait()
    Job.objects.update(lease_until="2020-01-01T00:00Z")  # its time has passed
    start_worker("-c", "1")

    job = ended(job_id)

    assert (job.state, job.attempts, job.crashes) == ("succeeded", 2, 1)
    assert effects() == ["once"]


def test_a_second_delivery_is_dropped(app, start_worker, ended, notes):
    job_id = tasks.durable.delay(notes.path, "job", 2).id
    Job.objects.update(published_at=None)
    start_worker("-c", "3")
    from celeriac.jobs.enqueue import publish

    for _ in range(5):
        publish([Job.objects.get(pk=job_id)])

    ended(job_id)
    time.sleep(1)
    assert notes() == ["job began", "job ended"]


def test_a_job_that_kills_its_worker_every_time_stops_and_is_shown(app, start_worker, ended, notes, settings):
    settings.JOBS_MAX_CRASHES = 2
    start_worker("-c", "1", CELERY_TASK_RETRY_ON_WORKER_LOST="false")
    job = ended(tasks.kills_its_worker.delay(notes.path).id, 240)

    assert job.state == "failed"
    assert job.error


def test_retries_are_kept_and_counted(app, start_worker, ended, notes):
    start_worker()
    job = ended(tasks.durable_retries.delay(notes.path, 2).id)

    assert (job.state, job.retries, job.attempts) == ("succeeded", 2, 3)
    assert notes() == ["attempt 0", "attempt 1", "attempt 2"]


def test_a_failure_keeps_its_arguments_and_traceback(app, start_worker, ended):
    start_worker()
    job = ended(tasks.durable_fails.delay("no such order").id)

    assert (job.state, job.error) == ("failed", "ValueError: no such order")
    assert "raise ValueError(words)" in job.traceback
    assert job.args == "'no such order'"


def test_a_countdown_beyond_the_horizon_stays_in_postgres(app, broker):
    job_id = tasks.durable_add.apply_async([1, 2], countdown=3600).id

    assert Job.objects.get(pk=job_id).published_at is None
    assert broker.command("LLEN", "default") == 0


def test_chains_groups_and_chords_work(app, start_worker, ended):
    start_worker()
    chained = chain(tasks.durable_add.s(1, 2), tasks.durable_add.s(3), tasks.durable_add.s(4))()
    grouped = group(tasks.durable_add.s(number, 1) for number in range(3))()
    body = chord([tasks.durable_add.s(number, number) for number in range(5)], tasks.durable_total.s())()

    assert ended(chained.id).result == "10"
    assert [ended(result.id).result for result in grouped] == ["1", "2", "3"]
    assert ended(body.id).result == "20"


def test_many_are_one_statement(app, start_worker, ended, django_assert_num_queries):
    with django_assert_num_queries(1):
        ids = tasks.durable_add.delay_many([[number, 1] for number in range(500)])
    start_worker()

    assert ended(ids[-1]).result == "500"
    eventually(lambda: Job.objects.filter(state="succeeded").count() == 500)


def test_a_job_that_would_replace_itself_has_failed_and_says_why(app, start_worker, ended):
    start_worker()
    job = ended(tasks.durable_replaces.delay().id)

    assert job.state == "failed"
    assert "is durable, and cannot be replaced" in job.error


def test_the_row_is_written_in_the_transaction_that_asks_for_it(app):
    with transaction.atomic():
        tasks.durable_add.delay_on_commit(1, 2)
        assert Job.objects.get().state == "waiting"
        transaction.set_rollback(True)

    assert not Job.objects.exists()
