"""``delay_many``: jobs that are one row until somebody asks for one; and receipts, which spare a second write."""

import json
import math
from base64 import b64decode
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta

import pytest
from celery import signals
from django.core.management import call_command
from django.db import DataError, connection, transaction

from celeriac.broker import BROKER_AWAY
from celeriac.jobs import batches, enqueue, execution, operate, receipts
from celeriac.jobs.tests.conftest import effects
from celeriac.models import Batch, Job
from tests import tasks
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)


class Killed(BaseException):
    """SIGKILL."""


@contextmanager
def killed_before(module, name, calls=1):
    """The block's process dies instead of calling this function for the last of so many times."""
    real, left = getattr(module, name), list(range(calls))

    def call(*args, **kwargs):
        left.pop()
        if not left:
            raise Killed
        return real(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        patch.setattr(module, name, call)
        yield
    assert not left


def queued(broker):
    """Ids of the messages in the queue, the oldest first."""
    return [json.loads(raw)["headers"]["id"] for raw in reversed(broker.command("LRANGE", "default", 0, -1))]


def all_succeed(ids, reconcile):
    jobs = Job.objects.filter(id__in=ids)
    eventually(lambda: reconcile() or jobs.filter(state="succeeded").count() == len(ids), 40)
    assert set(jobs.values_list("attempts", "crashes")) == {(1, 0)}


# --- What is written -----------------------------------------------------------------------------------------------


def test_thousands_are_one_statement_and_no_second_one(app, broker, django_assert_num_queries):
    with django_assert_num_queries(1):
        ids = tasks.durable_add.delay_many([[number, 1] for number in range(2500)])

    assert len(set(ids)) == 2500
    assert queued(broker) == ids
    assert Batch.objects.count() == 3
    assert not Job.objects.exists()


def test_no_arguments_are_no_jobs(app):
    assert tasks.durable_add.delay_many([]) == []
    assert not Batch.objects.exists()


def test_their_row_is_part_of_the_transaction_that_asks_for_them(app, broker):
    with transaction.atomic():
        tasks.durable_add.delay_many([[1, 2]])
        assert Batch.objects.exists()
        assert queued(broker) == []
        transaction.set_rollback(True)

    assert not Batch.objects.exists()
    assert queued(broker) == []


ODD = [
    *("", "a'b\"c", "100 % {} %s %(id)s", "Grüße, 世界", "two\nlines\tand a tab", "x" * 5000),
    *(0, -1, 2**70, 0.1, math.inf, True, None, [1, [2, {"a": "b"}]], {"__type__": "mine"}),
    datetime(2026, 11, 20, tzinfo=UTC),
]


@pytest.mark.parametrize("value", ODD, ids=lambda value: ascii(value)[:20])
def test_a_job_of_many_is_what_it_would_be_alone(app, broker, value):
    """Its row and its message, whatever its arguments are."""
    alone = tasks.echo_durable.delay(value).id
    together = tasks.echo_durable.delay_many([[0], [value]])[1]
    batches.unfold_all()

    one, other = (Job.objects.get(pk=pk) for pk in (alone, together))
    assert (other.args, other.body, other.task, other.queue) == (one.args, one.body, one.task, one.queue)
    assert json.dumps(other.message, sort_keys=True).replace(together, alone) == json.dumps(one.message, sort_keys=True)
    assert (other.state, other.token) == ("waiting", 0)
    assert abs(other.due_at - other.created_at) < timedelta(seconds=0.1)
    raw = broker.command("LRANGE", "default", 0, -1)
    sent = {message["headers"]["id"]: message for message in map(json.loads, raw)}
    if one.state == "failed":  # kombu cannot read it
        assert together not in sent
        return
    mine, theirs = sent[together], sent[alone]
    assert mine["properties"].pop("delivery_tag") != theirs["properties"].pop("delivery_tag")
    assert json.loads(b64decode(mine["body"])) == json.loads(b64decode(theirs["body"]))
    assert json.loads(json.dumps(mine).replace(together, alone)) == theirs


@pytest.mark.parametrize("args", [[object(), 2], [1]], ids=lambda args: ascii(args)[:12])
def test_what_cannot_be_written_is_refused_at_the_call(app, args):
    with pytest.raises((TypeError, ValueError, DataError)):
        tasks.durable_add.delay(*args)
    with pytest.raises((TypeError, ValueError, DataError)):
        tasks.durable_add.delay_many([[1, 2], args])

    assert not Batch.objects.exists()
    assert not Job.objects.exists()


def test_who_listens_to_celerys_signals_hears_of_each(app):
    heard = []

    def listen(sender, headers, **kwargs):
        heard.append(headers["id"])

    signals.before_task_publish.connect(listen)
    try:
        ids = tasks.durable_add.delay_many([[1, 2], [3, 4]])
    finally:
        signals.before_task_publish.disconnect(listen)

    assert heard == ids


def test_the_log_has_a_line_for_each(app, monkeypatch):
    said = []
    monkeypatch.setattr("celeriac.worker.logs.say_sent", lambda queue, sent, context: said.append((queue, list(sent))))

    ids = tasks.durable_add.delay_many([[1, 2], [3, 4]])

    assert said == [("default", [("tests.tasks.durable_add", job_id) for job_id in ids])]


# --- Who dies when -------------------------------------------------------------------------------------------------


def test_many_whose_process_died_after_the_commit_run_once(app, broker, start_worker, reconcile):
    with killed_before(enqueue, "publish_soon"):
        tasks.effect.delay_many([[f"job {n}"] for n in range(50)])
    assert queued(broker) == []
    [batch] = Batch.objects.values_list("pk", flat=True)

    start_worker("-c", "1")

    all_succeed([f"{batch}{n:04x}" for n in range(50)], reconcile)
    assert len(effects()) == len(set(effects())) == 50


def test_one_whose_process_died_after_the_commit_runs_once(app, broker, start_worker, ended):
    with killed_before(enqueue, "publish_soon"):
        tasks.effect.delay("once")
    assert queued(broker) == []

    start_worker("-c", "1")

    assert ended(Job.objects.get().pk).attempts == 1
    assert effects() == ["once"]


def test_a_process_that_dies_between_two_batches_leaves_one_to_be_published(app, broker, reconcile):
    with killed_before(receipts, "commands", calls=2):
        tasks.durable_add.delay_many([[number, 1] for number in range(1500)])
    assert len(queued(broker)) == 1000

    reconcile()

    assert len(queued(broker)) == len(set(queued(broker))) == 1500
    assert Job.objects.filter(published_at=None).count() == 0


def test_a_message_and_its_receipt_come_to_redis_both_or_not_at_all(app, broker, reconcile):
    broker.command("CONFIG", "SET", "maxmemory", "1")
    tasks.durable_add.delay(1, 1)
    tasks.durable_add.delay_many([[number, 1] for number in range(10)])
    assert (queued(broker), broker.command("EXISTS", receipts.KEY)) == ([], 0)

    broker.command("CONFIG", "SET", "maxmemory", "400mb")
    reconcile()

    assert len(queued(broker)) == 11


def test_an_answer_of_redis_that_is_lost_costs_no_second_message(app, broker, reconcile, monkeypatch):
    real = enqueue.publish_soon

    def and_fail(give, count):
        def given():
            give()
            raise ConnectionResetError("the answer was lost")

        real(given, count)

    monkeypatch.setattr(enqueue, "publish_soon", and_fail)
    monkeypatch.setattr(enqueue, "REST", 0.0)
    ids = [tasks.durable_add.delay(1, 1).id, *tasks.durable_add.delay_many([[2, 2], [3, 3]])]

    reconcile()

    assert sorted(queued(broker)) == sorted(ids)


def test_many_are_kept_while_redis_is_away(app, broker, start_worker, reconcile):
    broker.stop()
    ids = tasks.effect.delay_many([[f"job {n}"] for n in range(50)])
    with pytest.raises(BROKER_AWAY):
        reconcile()
    broker.start()

    start_worker("-c", "1")

    all_succeed(ids, reconcile)
    assert len(effects()) == 50


def test_a_wiped_redis_has_lost_the_receipts_too(app, broker, reconcile):
    ids = [tasks.durable_add.delay(1, 1).id, *tasks.durable_add.delay_many([[2, 2], [3, 3]])]
    broker.command("FLUSHALL")  # before anybody has asked for them
    reconcile()
    assert sorted(queued(broker)) == sorted(ids)

    broker.command("FLUSHALL")
    reconcile()
    assert sorted(queued(broker)) == sorted(ids)


# --- Who unfolds them ----------------------------------------------------------------------------------------------


def test_numbers_are_written_as_celery_writes_them(app):
    numbers = [(), (1,), (2**70, -0.5), (math.nan, math.inf, None), (True, 1e300, 0)]
    alone = [Job.objects.get(pk=tasks.echo_all.delay(*each).id) for each in numbers]
    ids = tasks.echo_all.delay_many(numbers)
    batches.unfold_all()

    together = [Job.objects.get(pk=pk) for pk in ids]
    assert [(job.args, job.body) for job in together] == [(job.args, job.body) for job in alone]


def test_what_redis_has_a_receipt_for_is_written_down_and_not_sent_twice(app, broker, reconcile):
    ids = [tasks.durable_add.delay(1, 1).id, *tasks.durable_add.delay_many([[2, 2], [3, 3]])]
    assert not Job.objects.exclude(published_at=None).exists()

    reconcile()
    reconcile()

    assert queued(broker) == ids
    assert Job.objects.exclude(published_at=None).count() == 3
    assert not Batch.objects.exists()


def test_a_worker_unfolds_them_by_itself(app, start_worker):
    ids = tasks.effect.delay_many([[f"job {n}"] for n in range(300)])
    start_worker("-c", "2", LOG_LEVEL="ERROR")
    start_worker("-c", "2", "-n", "other@%h", LOG_LEVEL="ERROR")

    eventually(lambda: Job.objects.filter(id__in=ids, state="succeeded").count() == 300)
    assert len(effects()) == len(set(effects())) == 300


def test_two_who_unfold_at_the_same_time_make_each_job_once(app):
    [job, _] = tasks.durable_add.delay_many([[1, 2], [3, 4]])
    with transaction.atomic():
        batches.unfold_of([job])
        other = connection.copy()
        with other.cursor() as cursor:
            cursor.execute("SET lock_timeout = '300ms'")
            with pytest.raises(Exception, match="lock timeout"):  # it waits, and does not believe that there is none
                cursor.execute(batches.UNFOLD, {"id": job[: batches.OWN], "published": True})
        other.close()
    batches.unfold_of([job])

    assert Job.objects.count() == 2


def test_who_cancels_or_shows_one_finds_it(app, capsys):
    first, second, _ = tasks.durable_add.delay_many([[1, 2], [3, 4], [5, 6]])

    assert [job.id for job in operate.cancel([first], "not wanted")] == [first]
    call_command("jobs", "show", second)
    assert "3, 4" in capsys.readouterr().out


def test_who_cancels_all_of_a_task_gets_all(app, capsys):
    tasks.durable_add.delay_many([[number, 1] for number in range(1200)])

    call_command("jobs", "cancel", "--task", "tests.tasks.durable_add")

    assert Job.objects.filter(state="cancelled").count() == 1200


def test_counts_know_of_them(app):
    tasks.durable_add.delay_many([[1, 2], [3, 4]])

    assert operate.stats()["states"]["waiting"] == 2


def test_one_that_is_revoked_before_anybody_has_unfolded_it_is_cancelled(app, broker, start_worker, ended, notes):
    worker = start_worker("-c", "1")
    blocked = tasks.durable.delay(notes.path, "first", 6)
    eventually(lambda: notes() == ["first began"])
    [job] = tasks.durable.delay_many([[notes.path, "second"]])
    app.control.revoke(job)
    eventually(lambda: "revoked" in worker.log.read_text())

    assert ended(job).state == "cancelled"
    assert ended(blocked.id).state == "succeeded"
    assert notes() == ["first began", "first ended"]


def test_arguments_that_postgres_has_no_text_for_are_shown_escaped_and_carried_as_they_are(app, broker):
    odd = ["a\0b", "\udcff.txt"]

    job = Job.objects.get(pk=tasks.durable_add.delay(*odd).id)

    assert "\\x00" in job.args
    assert json.loads(job.body)[0] == odd


# --- Receipts ------------------------------------------------------------------------------------------------------


def test_what_is_to_be_published_again_needs_a_new_publication(app, broker, reconcile):
    """The receipt of the first one is there still."""
    job = tasks.durable_add.delay(1, 2).id
    reconcile()
    broker.command("DEL", "default")
    broker.command("SET", "celeriac.sentinel", "0")  # which Redis was thrown back?

    reconcile()

    assert broker.command("ZCARD", receipts.KEY) == 1
    assert queued(broker) == [job]


def test_receipts_are_thrown_away_after_some_minutes(app, broker, reconcile, monkeypatch):
    tasks.durable_add.delay(1, 2)
    assert broker.command("ZCARD", receipts.KEY) == 1
    monkeypatch.setattr(receipts, "KEPT", -1)

    reconcile()

    assert broker.command("ZCARD", receipts.KEY) == 0


def test_a_job_that_was_claimed_and_given_back_is_not_sent_twice(app, broker, reconcile):
    job = tasks.durable_add.delay(1, 2).id
    headers = json.loads(broker.command("LINDEX", "default", 0))["headers"]
    execution.unclaim(execution.claim_many([headers], "worker"))

    reconcile()

    assert queued(broker) == [job]
    assert Job.objects.get().published_at


def test_an_id_that_is_made_of_another_jobs_needs_a_receipt_of_its_own(app, broker, reconcile):
    [job] = tasks.durable_add.delay_many([[1, 2]])
    with killed_before(enqueue, "publish_soon"):
        tasks.durable_add.apply_async([3, 4], task_id=f"{job}-again")
    assert queued(broker) == [job]

    reconcile()

    assert queued(broker) == [job, f"{job}-again"]
