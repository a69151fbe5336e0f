"""Durable jobs that a child takes many of at once: each has its own claim, its own end, and no other one's crash."""

import signal

import pytest
from django.db import transaction
from django_celery_results.models import TaskResult

from celeriac.models import Job
from tests.tasks import durable, kills_its_worker
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)


def test_durable_jobs_in_a_batch_are_each_claimed_once_and_have_ended(app, start_worker, notes):
    ids = durable.delay_many([[notes.path, str(number)] for number in range(300)])

    start_worker("-c", "2", LOG_LEVEL="ERROR")

    jobs = Job.objects.filter(id__in=ids)
    eventually(lambda: jobs.filter(state="succeeded").count() == 300)
    assert set(jobs.values_list("attempts", "crashes", "lease_until")) == {(1, 0, None)}
    assert TaskResult.objects.filter(task_id__in=ids, status="SUCCESS").count() == 300
    assert len(notes()) == len(set(notes()))


def test_a_job_behind_a_slow_one_is_given_back_unharmed_and_runs_elsewhere(app, start_worker, notes, tmp_path):
    over = tmp_path / "over"
    before, after = ([[notes.path, f"{when} {n}"] for n in range(50)] for when in ("before", "after"))
    ids = durable.delay_many([*before, [notes.path, "slow", 0.0, str(over)], *after])
    start_worker("-c", "1", LOG_LEVEL="ERROR")
    eventually(lambda: any(line.startswith("slow") for line in notes()))
    waiting = Job.objects.filter(id__in=ids[-50:])
    eventually(lambda: set(waiting.values_list("state", "attempts")) == {("waiting", 0)})

    start_worker("-c", "1", "-n", "other@%h", LOG_LEVEL="ERROR")

    eventually(lambda: waiting.filter(state="succeeded").count() == 50)
    over.touch()
    eventually(lambda: Job.objects.filter(id__in=ids, state="succeeded", attempts=1, crashes=0).count() == 101)


def test_a_job_that_kills_its_child_is_alone_in_having_crashed(app, start_worker, notes, tmp_path):
    before = durable.delay_many([[notes.path, f"before {n}"] for n in range(40)])
    deadly = kills_its_worker.delay(str(tmp_path / "deadly"))
    after = durable.delay_many([[notes.path, f"after {n}"] for n in range(40)])

    start_worker("-c", "1", LOG_LEVEL="ERROR")

    jobs = Job.objects.filter(id__in=[*before, *after])
    eventually(lambda: jobs.filter(state="succeeded").count() == 80)
    assert set(jobs.values_list("crashes", flat=True)) == {0}
    assert Job.objects.get(id=deadly.id).crashes >= 1
    assert len(notes()) == len(set(notes()))


def test_jobs_of_a_worker_that_was_killed_are_not_blamed_for_it_twice(app, start_worker, reconcile, notes):
    ids = durable.delay_many([[notes.path, str(number)] for number in range(2000)])
    jobs = Job.objects.filter(id__in=ids)
    options = {"CELERY_BROKER_TRANSPORT_OPTIONS": '{"visibility_timeout": 3}', "LOG_LEVEL": "ERROR"}
    for _ in range(4):  # JOBS_MAX_CRASHES is 3
        worker = start_worker("-c", "1", **options)
        so_far = jobs.filter(state="succeeded").count()
        eventually(lambda so_far=so_far: jobs.filter(state="succeeded").count() > so_far, every=0.02)
        worker.signal(signal.SIGKILL)
        worker.process.wait()
    start_worker("-c", "2", **options)

    eventually(lambda: reconcile() or jobs.filter(state="succeeded").count() == 2000, 150)
    assert not jobs.filter(state="failed").exists()


def test_a_job_whose_arguments_cannot_be_read_fails_alone(app, start_worker, reconcile, notes):
    """kombu writes such a thing, and does not read it."""
    with transaction.atomic():
        unreadable = durable.delay(notes.path, {"__type__": "unknown", "__value__": 1})
        other = durable.delay(notes.path, "other")
    start_worker("-c", "1")

    eventually(lambda: reconcile() or Job.objects.get(id=other.id).state == "succeeded")
    job = Job.objects.get(id=unreadable.id)
    assert (job.state, "unknown" in job.error) == ("failed", True)
