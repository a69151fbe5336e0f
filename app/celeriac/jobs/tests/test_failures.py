"""The ways in which a stock set-up loses, doubles and stalls work; docs/failures.md is the whole list. Real servers."""

import json
import os
import signal
import sys
import time

import pytest
from celery import chord
from django.db import transaction
from django_celery_results.models import TaskResult

from celeriac.broker import BROKER_AWAY
from celeriac.jobs import enqueue, receipts
from celeriac.jobs.tests import odd_tasks
from celeriac.jobs.tests.conftest import effects
from celeriac.models import Job
from celeriac.worker.tests.test_database import postgres_away
from tests import tasks
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)

#: A visibility timeout whose end a test can wait for, and which a worker renews in time however slow it is.
QUICK = {"CELERY_BROKER_TRANSPORT_OPTIONS": json.dumps({"visibility_timeout": 7}), "RENEW": "1"}


def kill(worker):
    for pid in [worker.process.pid, *worker.children()]:
        os.kill(pid, signal.SIGKILL)
    worker.process.wait()


def running(job_id):
    return eventually(lambda: Job.objects.filter(pk=job_id, state="running").first(), every=0.1)


# --- Messages that are nowhere, or come back ------------------------------------------------------------------


def test_a_message_that_died_with_its_worker_is_found(app, broker, start_worker, ended, reconcile, monkeypatch):
    """BRPOP takes it out of Redis before ``unacked`` has it: for a moment it is in a process alone."""
    jobs = [tasks.effect.delay(name).id for name in ("lost", "kept")]
    reconcile()
    broker.command("RPOP", "default")  # the one that was sent first
    monkeypatch.setattr("celeriac.jobs.reconcile.SCAN_EVERY", 1.0)
    time.sleep(1.1)
    start_worker()

    assert [ended(job).state for job in jobs] == ["succeeded", "succeeded"]
    assert effects() == ["kept", "lost"]


def test_a_task_and_an_eta_longer_than_the_visibility_timeout_run_once(broker, start_worker, notes):
    start_worker("-c", "3", **QUICK)
    broker.send(tasks.work, notes.path, "long", 20)
    broker.send(tasks.work, notes.path, "later", countdown=18)

    eventually(lambda: {"long ended", "later ended"} <= set(notes()), 40)
    time.sleep(3)
    assert sorted(notes()) == ["later began", "later ended", "long began", "long ended"]
    eventually(lambda: broker.command("HLEN", "unacked.default") == 0)


def test_a_killed_workers_messages_come_back_after_seconds(broker, start_worker, notes):
    first = start_worker("-c", "1", "-n", "first@%h", **QUICK)
    broker.send(tasks.work, notes.path, "task", 5)
    eventually(lambda: notes() == ["task began"], every=0.05)
    kill(first)
    killed = time.monotonic()
    start_worker("-c", "1", "-n", "second@%h", **QUICK)

    eventually(lambda: "task ended" in notes())
    assert time.monotonic() - killed < 60  # stock: an hour
    assert notes() == ["task began", "task began", "task ended"]


# --- Redis -----------------------------------------------------------------------------------------------------


def test_a_full_redis_loses_nothing_and_a_durable_call_succeeds(app, broker, start_worker, ended, notes):
    worker = start_worker("-c", "1")
    for number in range(5):
        broker.send(tasks.work, notes.path, str(number), 2)
    eventually(lambda: notes()[:1] == ["0 began"])

    broker.command("CONFIG", "SET", "maxmemory", "1mb")
    job = tasks.durable.delay(notes.path, "durable").id
    with pytest.raises(BROKER_AWAY, match="maxmemory"):
        tasks.work.delay(notes.path, "not durable")
    time.sleep(10)
    broker.command("CONFIG", "SET", "maxmemory", "400mb")
    if worker.process.poll() is not None:  # its acknowledgement was refused; Docker starts it again
        start_worker("-c", "1")

    assert ended(job).state == "succeeded"
    eventually(lambda: {f"{number} ended" for number in range(5)} <= set(notes()))


def test_a_frozen_redis_costs_a_caller_two_seconds_once_and_the_work_is_done_once(
    app, broker, start_worker, ended, notes, monkeypatch
):
    first = tasks.effect.delay("before").id  # connected
    broker.process.send_signal(signal.SIGSTOP)
    waited_for_nothing = []
    jobs = [first]
    publish = enqueue.publish_first

    def noted(given):
        try:
            publish(given)
        except BROKER_AWAY:
            waited_for_nothing.append(given)
            raise

    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(enqueue, "publish_first", noted)
        patch.setattr(enqueue, "REST", 60.0)
        for number in range(5):
            jobs.append(tasks.effect.delay(f"frozen {number}").id)
    took = time.monotonic() - began
    broker.process.send_signal(signal.SIGCONT)  # and Redis reads what was sent to it meanwhile
    start_worker()

    assert took < 10  # two, and five commits
    assert len(waited_for_nothing) == 1
    assert {ended(job).state for job in jobs} == {"succeeded"}
    time.sleep(2)
    assert effects() == sorted(["before", *(f"frozen {number}" for number in range(5))])


def test_a_frozen_redis_does_not_hang_a_caller_of_a_task_that_is_not_durable(app, broker, notes):
    tasks.work.delay(notes.path, "before")
    broker.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    try:
        with pytest.raises(BROKER_AWAY):
            tasks.work.delay(notes.path, "frozen")
        assert time.monotonic() - began < 60
    finally:
        broker.process.send_signal(signal.SIGCONT)


def test_when_the_broker_is_away_at_the_commit_nothing_is_raised_and_what_follows_the_commit_is_done(
    app, broker, start_worker, ended
):
    broker.stop()
    done = []
    with transaction.atomic():
        job = tasks.effect.delay_on_commit("once")
        job = tasks.effect.delay("once").id
        transaction.on_commit(lambda: done.append("next"))

    assert done == ["next"]
    assert Job.objects.filter(pk=job, published_at=None).exists()
    broker.start()
    start_worker()
    assert ended(job).state == "succeeded"


def test_a_publish_that_raised_and_was_delivered_all_the_same_has_one_effect(
    app, broker, start_worker, ended, reconcile, monkeypatch
):
    """Redis took it, and its answer was lost, and its receipt; so it is sent again."""
    publish = enqueue.publish_first

    def and_fail(jobs):
        publish(jobs)
        broker.command("DEL", receipts.KEY)
        raise ConnectionResetError("the answer was lost")

    with monkeypatch.context() as patch:
        patch.setattr(enqueue, "publish_first", and_fail)
        job = tasks.effect.delay("once").id
    reconcile()
    assert broker.command("LLEN", "default") == 2
    start_worker()

    assert ended(job).attempts == 1
    eventually(lambda: broker.command("LLEN", "default") + broker.command("HLEN", "unacked.default") == 0)
    assert effects() == ["once"]


def test_a_priority_is_kept_also_when_it_is_published_again(app, broker, start_worker, ended, reconcile, notes):
    low = tasks.durable.apply_async([notes.path, "low"], priority=9).id
    high = tasks.durable.apply_async([notes.path, "high"], priority=0).id
    assert [broker.command("LLEN", key) for key in ("default", "default\x06\x169")] == [1, 1]
    reconcile()
    broker.command("FLUSHALL")
    reconcile()
    assert [broker.command("LLEN", key) for key in ("default", "default\x06\x169")] == [1, 1]
    start_worker("-c", "1")

    assert ended(high).state == ended(low).state == "succeeded"
    assert notes() == ["high began", "high ended", "low began", "low ended"]


# --- Workers ---------------------------------------------------------------------------------------------------


def test_a_child_that_is_killed_costs_an_attempt_and_no_second_effect(app, start_worker, ended):
    worker = start_worker("-c", "1")
    job_id = tasks.effect.delay("once", 4).id
    running(job_id)
    time.sleep(1)
    os.kill(worker.children()[0], signal.SIGKILL)

    job = ended(job_id)

    assert (job.state, job.attempts, job.crashes) == ("succeeded", 2, 1)
    assert effects() == ["once"]
    assert worker.process.poll() is None


def test_a_part_of_a_chord_that_is_delivered_twice_neither_stops_nor_doubles_its_body(app, broker, start_worker, notes):
    chord([tasks.echo.s(1), tasks.echo.s(2)], tasks.work.si(notes.path, "body"))()
    broker.command("LPUSH", "default", broker.command("LINDEX", "default", 0))
    start_worker("-c", "2")

    eventually(lambda: "body ended" in notes())
    eventually(lambda: broker.command("LLEN", "default") + broker.command("HLEN", "unacked.default") == 0)
    assert notes() == ["body began", "body ended"]


def test_a_job_that_this_worker_does_not_know_waits_for_one_that_does(
    app, broker, start_worker, ended, tmp_path, monkeypatch
):
    """A rolling deploy: the web is ahead of its workers."""
    (tmp_path / "of_the_next_release.py").write_text(
        "from celery import shared_task\n\n@shared_task(durable=True)\ndef new():\n    return 'done'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from of_the_next_release import new

    job_id = new.delay().id
    old = start_worker("-c", "1")
    eventually(lambda: "does not know" in old.log.read_text())
    eventually(lambda: broker.command("LLEN", "default") + broker.command("HLEN", "unacked.default") == 0)
    assert Job.objects.get(pk=job_id).state == "waiting"
    old.process.terminate()
    old.process.wait(60)
    Job.objects.filter(pk=job_id).update(due_at="2020-01-01T00:00Z")  # its pause is over
    start_worker(
        "-c", "1", CELERY_IMPORTS='["of_the_next_release"]', PYTHONPATH=f"{tmp_path}:{os.pathsep.join(sys.path)}"
    )

    assert ended(job_id).state == "succeeded"


def test_a_job_of_a_task_that_is_not_durable_any_more_ends(app, start_worker, ended, settings, notes):
    settings.DURABLE_TASKS = ["tests.tasks.work"]  # here, and not in the worker
    job_id = tasks.work.delay(notes.path, "job").id
    start_worker("-c", "1")

    assert ended(job_id).state == "succeeded"
    assert notes() == ["job began", "job ended"]


# --- Postgres --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("atomic", [True, False])
def test_a_job_that_ends_while_postgres_is_away_ends_when_it_is_back(app, start_worker, ended, notes, atomic):
    worker = start_worker("-c", "1")
    job_id = (tasks.effect.delay("once", 3) if atomic else tasks.durable.delay(notes.path, "job", 3)).id
    running(job_id)
    with postgres_away():
        time.sleep(5)

    job = ended(job_id)

    assert job.state == "succeeded"
    assert effects() == ["once"] if atomic else notes() == ["job began", "job ended"]
    assert worker.process.poll() is None


def test_a_job_that_comes_while_postgres_is_away_waits_for_it(app, broker, start_worker, ended):
    job_id = tasks.effect.delay("once").id
    message = broker.command("RPOP", "default")
    worker = start_worker("-c", "1")
    with postgres_away():
        broker.command("LPUSH", "default", message)
        time.sleep(4)

    assert ended(job_id).state == "succeeded"
    assert effects() == ["once"]
    assert worker.process.poll() is None


def test_a_job_whose_session_postgres_ends_is_run_again_and_has_not_failed(app, start_worker, ended, notes):
    start_worker("-c", "1", CELERY_IMPORTS='["celeriac.jobs.tests.odd_tasks"]')

    job = ended(odd_tasks.session_ends.delay(notes.path).id)

    assert (job.state, job.attempts) == ("succeeded", 2)
    assert effects() == ["once"]


# --- What Celery's own features mean for a job -----------------------------------------------------------------


def test_a_job_that_is_revoked_before_it_starts_is_cancelled(app, start_worker, ended, notes):
    worker = start_worker("-c", "1")
    job_id = tasks.durable.apply_async([notes.path, "job"], countdown=6).id
    app.control.revoke(job_id)
    eventually(lambda: "revoked" in worker.log.read_text())

    job = ended(job_id)

    assert (job.state, job.error) == ("cancelled", "revoked")
    assert notes() == []


def test_a_job_that_is_revoked_while_it_runs_is_stopped_and_not_run_again(app, start_worker, ended, notes, reconcile):
    start_worker("-c", "1")
    job_id = tasks.durable.delay(notes.path, "job", 30).id
    running(job_id)
    eventually(lambda: notes() == ["job began"])
    app.control.revoke(job_id, terminate=True, signal="SIGKILL")

    assert ended(job_id).state == "cancelled"
    time.sleep(2)
    reconcile()
    time.sleep(2)
    assert notes() == ["job began"]


def test_a_job_that_expires_is_cancelled_and_says_so(app, start_worker, ended, notes):
    job_id = tasks.durable.apply_async([notes.path, "job"], expires=1).id
    time.sleep(1.5)
    start_worker("-c", "1")

    job = ended(job_id)

    assert (job.state, job.error) == ("cancelled", "expired")
    assert notes() == []


def test_a_redelivery_that_has_expired_meanwhile_does_not_cancel_the_job_that_runs(
    app, broker, start_worker, ended, notes
):
    job_id = tasks.durable.apply_async([notes.path, "job", 8], expires=600).id
    message = broker.command("LINDEX", "default", 0)
    start_worker("-c", "2")
    running(job_id)
    past = {**json.loads(message), "properties": {**json.loads(message)["properties"], "delivery_tag": "another"}}
    past["headers"]["expires"] = "2020-01-01T00:00:00+00:00"  # as it is by then
    broker.command("LPUSH", "default", json.dumps(past))

    assert ended(job_id).state == "succeeded"


def test_the_hard_time_limit_fails_a_job_for_good(app, start_worker, ended, reconcile, notes, settings):
    settings.DURABLE_TASKS = ["tests.tasks.stubborn"]
    start_worker("-c", "1", DURABLE_TASKS="tests.tasks.stubborn")
    job_id = tasks.stubborn.apply_async([notes.path], time_limit=8, soft_time_limit=3).id

    job = ended(job_id)

    assert (job.state, job.attempts) == ("failed", 1)
    assert job.error.startswith("TimeLimitExceeded")
    time.sleep(2)
    reconcile()
    time.sleep(2)
    assert notes() == ["began", "soft limit"]
    assert TaskResult.objects.get(task_id=job_id).status == "FAILURE"


def test_a_job_that_says_ignore_has_ended(app, start_worker, ended, notes):
    start_worker("-c", "1", CELERY_IMPORTS='["celeriac.jobs.tests.odd_tasks"]')

    job = ended(odd_tasks.ignores.delay(notes.path).id)

    assert job.finished_at
    assert notes() == ["ignored"]
