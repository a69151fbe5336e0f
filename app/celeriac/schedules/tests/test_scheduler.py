"""Beat sends what is in the admin, once, and writes over nothing there."""

import faulthandler
import os
import time
from datetime import timedelta

import pytest
from celery import current_app
from django.utils import timezone
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from celeriac.schedules.scheduler import DatabaseScheduler

TASK = "config.tasks.debug_task"

# The scheduler closes connections between two looks, so these tests commit.
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def queued():
    """How many messages wait in the real broker's queue; it is empty at first."""
    with current_app.connection_for_write() as connection:
        queue = current_app.amqp.queues["default"](connection.default_channel)
        queue.declare()
        queue.purge()
        yield lambda: queue.queue_declare().message_count
        queue.purge()


def due(**fields) -> PeriodicTask:
    """A task every ten seconds that ran a minute ago."""
    interval = IntervalSchedule.objects.create(every=10, period=IntervalSchedule.SECONDS)
    return PeriodicTask.objects.create(
        name="due", task=TASK, interval=interval, last_run_at=timezone.now() - timedelta(minutes=1), **fields
    )


def test_what_is_due_is_sent(queued):
    due()
    scheduler = DatabaseScheduler(app=current_app)

    scheduler.tick()

    assert queued() == 1
    scheduler.close()
    assert PeriodicTask.objects.get().total_run_count == 1


def test_it_is_sent_once_and_the_next_look_is_soon(queued):
    due()
    scheduler = DatabaseScheduler(app=current_app)

    waits = [scheduler.tick() for _ in range(3)]

    assert queued() == 1
    assert 0 < waits[-1] <= 5


def test_what_is_switched_off_is_not_sent(queued):
    due(enabled=False)

    DatabaseScheduler(app=current_app).tick()

    assert queued() == 0


def test_a_schedule_that_is_switched_on_later_is_noticed(queued):
    row = due(enabled=False)
    scheduler = DatabaseScheduler(app=current_app)
    scheduler.tick()

    row.enabled, row.last_run_at = True, timezone.now() - timedelta(minutes=1)
    row.save()
    scheduler.tick()

    assert queued() == 1


def test_starting_beat_writes_over_no_edit(settings):
    settings.CELERY_BEAT_SCHEDULE = {
        "due": {"task": TASK, "schedule": 1},
        "other": {"task": TASK, "schedule": 1},
    }
    row = due(args="[5]")

    DatabaseScheduler(app=current_app).setup_schedule()

    assert list(PeriodicTask.objects.all()) == [row]
    row.refresh_from_db()
    assert (row.args, row.interval.every) == ("[5]", 10)


@pytest.fixture
def heartbeat(monkeypatch, tmp_path):
    """The heartbeat file that a scheduler of this process would touch; its watchdog is called off in the end."""
    monkeypatch.setenv("HEARTBEAT_FILE", str(tmp_path / "beat.alive"))
    yield tmp_path / "beat.alive"
    faulthandler.cancel_dump_traceback_later()


def test_every_tick_beats(heartbeat):
    scheduler = DatabaseScheduler(app=current_app)
    os.utime(heartbeat, (0, 0))  # dead since long ago

    scheduler.tick()

    assert heartbeat.stat().st_mtime > time.time() + 20
