"""What operators do with jobs, and what becomes of it: with a real worker."""

import time
from datetime import timedelta
from pathlib import Path

import pytest
from celery import chord
from celery.app.task import Context
from celery.result import AsyncResult
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_results.models import TaskResult

from celeriac.jobs import batches, execution, operate
from celeriac.jobs.enqueue import publish
from celeriac.jobs.tests.conftest import effects
from celeriac.models import Job
from tests import tasks
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)


def is_now(job_id, state):
    return eventually(lambda: Job.objects.filter(pk=job_id, state=state).first(), what=f"{job_id} is {state}")


# --- Run again -----------------------------------------------------------------------------------------------------


def test_a_failed_job_runs_again_with_its_id_and_arguments_when_the_cause_is_gone(app, start_worker, ended, tmp_path):
    start_worker()
    folder = tmp_path / "not there yet"
    job_id = tasks.durable.delay(f"{folder}/notes", "job").id
    failed = ended(job_id)
    assert (failed.state, "FileNotFoundError" in failed.traceback) == ("failed", True)
    assert AsyncResult(job_id).state == "FAILURE"

    folder.mkdir()
    [waiting] = operate.retry([job_id])

    assert (waiting.state, waiting.error, waiting.finished_at) == ("waiting", failed.error, None)
    job = ended(job_id)
    assert (job.state, job.attempts, job.error, job.traceback) == ("succeeded", 2, "", "")
    assert Path(folder, "notes").read_text().splitlines() == ["job began", "job ended"]
    assert AsyncResult(job_id).get(timeout=60) == "job"


def test_a_job_that_used_up_its_retries_has_all_of_them_again(app, start_worker, ended, notes):
    start_worker()
    job_id = tasks.durable_retries.delay(notes.path, fail=9).id
    assert ended(job_id).state == "failed"

    operate.retry([job_id])

    job = ended(job_id)
    assert (job.state, job.attempts) == ("failed", 8)
    assert notes() == [f"attempt {number}" for number in range(4)] * 2


def test_a_job_that_expired_runs_when_it_is_run_again(app, start_worker, ended, notes):
    job_id = tasks.durable.apply_async([notes.path, "job"], expires=0.1).id
    time.sleep(0.2)
    start_worker()
    assert (ended(job_id).state, notes()) == ("cancelled", [])

    operate.retry([job_id])

    assert ended(job_id).state == "succeeded"


def test_what_has_still_to_pass_stays(app):
    later = timezone.now() + timedelta(hours=1)
    expires = later + timedelta(hours=1)
    job_id = tasks.durable_add.apply_async([1, 2], eta=later, expires=expires).id
    operate.cancel([job_id], "by mistake")

    [job] = operate.retry([job_id])

    headers = job.message["headers"]
    assert (job.due_at, headers["eta"], headers["expires"]) == (later, later.isoformat(), expires.isoformat())
    assert job.published_at is None


def test_a_job_that_killed_its_workers_may_do_it_as_often_again(app, ended):
    job_id = tasks.durable_add.delay(1, 2).id
    Job.objects.update(state="failed", crashes=5, finished_at=timezone.now(), error="Its worker died")

    [job] = operate.retry([job_id])

    assert (job.crashes, job.error) == (0, "Its worker died")


def test_while_redis_is_away_jobs_are_run_again_later(app, broker, start_worker, ended):
    ids = tasks.durable_add.delay_many([[number, 1] for number in range(3)])
    batches.unfold_all()
    Job.objects.update(state="failed", finished_at=timezone.now())
    broker.stop()
    began = time.monotonic()
    assert len(operate.retry(ids)) == 3
    assert time.monotonic() - began < 15

    broker.start()
    start_worker()

    assert [ended(pk).result for pk in ids] == ["1", "2", "3"]


def test_one_whose_effect_is_committed_goes_on_from_there(app, start_worker, ended):
    job_id = tasks.effect.delay("once").id
    Job.objects.update(state="failed", result='"once"', finished_at=timezone.now())

    operate.retry([job_id])
    start_worker()

    assert (ended(job_id).state, effects()) == ("succeeded", [])
    assert AsyncResult(job_id).get(timeout=60) == "once"


def test_the_end_of_an_attempt_before_does_not_count(app):
    job_id = tasks.durable_add.delay(1, 2).id
    request = Context(id=job_id, retries=0, celeriac_job=True, hostname="slow")
    request.job = execution.claim_job(request)
    Job.objects.update(state="failed", finished_at=timezone.now())  # its lease ended too often
    operate.retry([job_id])

    execution.end(request, "failed", "late")

    assert Job.objects.get().state == "waiting"


def test_a_delivery_from_before_is_dropped_and_the_new_one_runs(app, start_worker, ended, notes):
    job_id = tasks.durable_retries.apply_async([notes.path, 9], retries=3).id
    Job.objects.update(state="failed", finished_at=timezone.now())  # and its message is still in the queue
    operate.retry([job_id])
    start_worker("-c", "1")

    ended(job_id)

    assert notes() == [f"attempt {number}" for number in range(4)]


def test_an_expired_delivery_from_before_does_not_cancel_the_new_one(app, start_worker, ended, notes):
    job_id = tasks.durable.apply_async([notes.path, "job"], expires=0.1).id
    Job.objects.update(state="failed", finished_at=timezone.now())
    time.sleep(0.2)
    operate.retry([job_id])
    start_worker("-c", "1")

    assert ended(job_id).state == "succeeded"


def test_a_job_that_celery_revoked_runs_when_it_is_run_again(app, start_worker, ended, notes):
    start_worker("-c", "1")
    job_id = tasks.durable.apply_async([notes.path, "job"], countdown=10).id
    AsyncResult(job_id).revoke()
    assert (ended(job_id).state, notes()) == ("cancelled", [])

    operate.retry([job_id])

    assert ended(job_id).state == "succeeded"


@pytest.mark.parametrize("state", ["waiting", "running", "returned", "succeeded"])
def test_no_other_job_is_run_again(app, state):
    job_id = tasks.durable_add.delay(1, 2).id
    Job.objects.update(state=state)
    before = Job.objects.values().get()

    assert operate.retry([job_id]) == []
    assert Job.objects.values().get() == before


def test_ten_thousand_take_a_few_statements_for_each_batch(app, broker):
    ids = tasks.durable_add.delay_many([[number, 1] for number in range(2000)])
    batches.unfold_all()
    Job.objects.update(state="failed", finished_at=timezone.now())

    with CaptureQueriesContext(connection) as queries:
        count = sum(len(operate.retry(batch)) for batch in operate.in_batches(Job.objects.filter(state="failed")))

    assert count == len(ids)
    assert len(queries) <= 2000 / operate.BATCH * 8


def test_a_delivery_that_is_dropped_leaves_the_result_as_it_is(app, start_worker, ended):
    start_worker("-c", "1")
    job_id = tasks.durable_add.delay(1, 2).id
    publish([ended(job_id)])

    ended(tasks.durable_add.delay(3, 4).id)  # comes after it

    assert AsyncResult(job_id).get(timeout=60) == 3


# --- Cancel --------------------------------------------------------------------------------------------------------


def test_a_cancelled_job_does_not_run_although_its_message_is_delivered(app, start_worker, ended, notes):
    job_id = tasks.durable.delay(notes.path, "cancelled").id
    [job] = operate.cancel([job_id], "Cancelled by mina.")
    other = tasks.durable.delay(notes.path, "other").id
    start_worker("-c", "1")

    assert ended(other).state == "succeeded"
    assert notes() == ["other began", "other ended"]
    assert (job.state, job.error) == ("cancelled", "Cancelled by mina.")
    assert AsyncResult(job_id).state == "REVOKED"
    assert str(AsyncResult(job_id).result) == "Cancelled by mina."


def test_a_failed_job_that_is_given_up_keeps_its_reason(app):
    job_id = tasks.durable_add.delay(1, 2).id
    Job.objects.update(state="failed", error="ValueError: no", finished_at=timezone.now())

    [job] = operate.cancel([job_id], "Cancelled by mina.")

    assert (job.state, job.error) == ("cancelled", "ValueError: no")


@pytest.mark.parametrize("state", ["running", "returned", "succeeded", "cancelled"])
def test_no_other_job_is_cancelled(app, state):
    job_id = tasks.durable_add.delay(1, 2).id
    Job.objects.update(state=state)

    assert operate.cancel([job_id], "Cancelled by mina.") == []
    assert Job.objects.get().state == state
    assert not TaskResult.objects.exists()


def test_a_running_job_is_stopped_in_the_middle_and_can_be_run_again_at_once(
    app, start_worker, ended, notes, monkeypatch
):
    worker = start_worker("-c", "1")
    job_id = tasks.durable.delay(notes.path, "job", 6).id
    eventually(lambda: notes() == ["job began"])
    [child] = worker.children()

    jobs = operate.cancel([job_id], "Stopped by mina.", operate.STOPPED)

    monkeypatch.setattr(operate, "PATIENCE", 20.0)
    assert operate.stop(jobs) == []
    eventually(lambda: child not in worker.children())
    assert Job.objects.get().state == "cancelled"
    assert AsyncResult(job_id).state == "REVOKED"
    operate.retry([job_id])
    assert ended(job_id).state == "succeeded"
    assert notes() == ["job began", "job began", "job ended"]


def test_an_atomic_job_whose_worker_does_not_hear_of_it_has_no_effect_all_the_same(app, start_worker, ended):
    start_worker("-c", "1")
    job_id = tasks.effect.delay("none", 3).id
    is_now(job_id, "running")

    operate.cancel([job_id], "Stopped by mina.", operate.STOPPED)

    assert ended(tasks.effect.delay("next").id).state == "succeeded"
    assert effects() == ["next"]
    assert Job.objects.get(pk=job_id).state == "cancelled"


def test_a_chord_does_not_wait_for_a_part_that_is_cancelled(app, start_worker, ended):
    body = chord([tasks.durable_add.s(number, 1) for number in range(3)], tasks.durable_total.s())()
    part = Job.objects.filter(task="tests.tasks.durable_add")[0]
    operate.cancel([part.id], "Cancelled by mina.")

    start_worker()

    eventually(lambda: AsyncResult(body.id).state == "FAILURE")
