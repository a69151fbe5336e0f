"""Runs by hand, and how runs reach the broker."""

import pytest
from celery import current_app
from django.contrib.auth import get_user_model
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from celeriac.jobs import enqueue
from celeriac.models import Job, ScheduleRun, new_task_id
from celeriac.schedules import runs
from celeriac.schedules.runs import OnceBatch, Sender, Unsendable, run_now
from celeriac.schedules.tests.conftest import every
from tests.tasks import durable_add

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def _redis_is_there(monkeypatch):
    """For durable tasks, too: whatever another test did to it, they leave this process at once."""
    monkeypatch.setattr(enqueue, "_resting_until", 0.0)
    enqueue.publisher().close()
    yield
    enqueue.publisher().close()


@pytest.fixture
def user():
    return get_user_model().objects.create_user("mina")


def test_a_run_by_hand_is_sent_at_once_and_says_whose_it_was(queue, user):
    row = every(3600, enabled=False)

    run = run_now(row, user)

    assert [message.headers["id"] for message in queue()] == [run.task_id]
    run.refresh_from_db()
    assert (run.kind, run.user) == ("by hand", user)
    assert run.sent_at


def test_a_run_by_hand_moves_no_due_time(queue, beat):
    row = every(3600, ago=15)
    beat.tick()
    due_at = row.plan.next_run_at

    run_now(row)

    row.plan.refresh_from_db()
    assert row.plan.next_run_at == due_at


def test_while_redis_is_away_a_run_by_hand_is_kept_and_sent_by_the_scheduler(queue, beat, broker_away):
    row = every(3600, ago=15)
    run = run_now(row)
    assert run.sent_at is None
    assert queue() == []

    broker_away()
    beat.tick()

    assert [message.headers["id"] for message in queue()] == [run.task_id]


@pytest.mark.parametrize("columns", [{"args": "{no json"}, {"queue": "no_such_queue"}, {"kwargs": '{"no": 1}'}])
def test_what_cannot_be_sent_says_why_and_leaves_nothing(queue, columns):
    row = every(3600)
    PeriodicTask.objects.filter(pk=row.pk).update(**columns)
    row.refresh_from_db()

    with pytest.raises(Unsendable, match=r"Error|NotFound"):
        run_now(row)

    assert not ScheduleRun.objects.exists()
    assert queue() == []


def test_a_hundred_runs_are_one_round_trip(queue, monkeypatch):
    """A batch that nobody notices would be a hundred round trips."""
    flushes = []
    flush = OnceBatch.flush

    def counted(self):
        flushes.append(self._buffered)
        flush(self)

    monkeypatch.setattr(OnceBatch, "flush", counted)
    row, sender = every(3600), Sender(current_app)
    hundred = [ScheduleRun(periodic_task=row) for _ in range(100)]

    sender.send(hundred)
    sender.close()

    assert len([buffered for buffered in flushes if buffered]) == 1
    assert len(queue()) == 100


def test_redis_drops_a_run_it_has_had_and_takes_the_others(queue):
    row, sender = every(3600), Sender(current_app)
    first, second = (ScheduleRun(periodic_task=row, task_id=f"{id(row)}-{number}") for number in range(2))

    sender.send([first])
    sender.send([first, second])
    sender.close()

    assert [message.headers["id"] for message in queue()] == [first.task_id, second.task_id]


def test_redis_forgets_what_it_has_had_after_a_while(queue):
    row, sender = every(3600), Sender(current_app)
    run = ScheduleRun(periodic_task=row)
    sender.send([run])

    seconds = sender.channel.client.ttl(f"celeriac.sent.{run.task_id}")
    sender.close()

    assert 0 < seconds <= runs.REMEMBERED


@pytest.mark.usefixtures("_redis_is_there")
def test_a_durable_task_is_a_job_under_the_id_of_its_run_and_sent_once(queue):
    row, sender = every(3600, task=durable_add.name, args="[1, 2]", expire_seconds=60), Sender(current_app)
    run = ScheduleRun(periodic_task=row, task_id=new_task_id())

    sender.send([run])
    sender.send([run])  # as when it was sent, and nobody could note that
    sender.close()

    assert run.sent_at
    job = Job.objects.get()
    assert (job.pk, job.task, job.state) == (run.task_id, durable_add.name, "waiting")
    (message,) = queue()
    assert (message.headers["id"], message.headers["periodic_task_name"]) == (run.task_id, "due")
    assert message.payload[0] == [1, 2]
    assert message.headers["expires"]


@pytest.mark.usefixtures("_redis_is_there")
def test_a_durable_task_that_has_ended_is_not_run_again_when_its_run_is_sent_again(queue):
    row, sender = every(3600, task=durable_add.name, args="[1, 2]"), Sender(current_app)
    run = ScheduleRun(periodic_task=row, task_id=new_task_id())
    sender.send([run])
    queue()
    Job.objects.update(state="succeeded", finished_at=timezone.now())

    sender.send([run])
    sender.close()

    assert Job.objects.get().state == "succeeded"
    assert queue() == []
