"""Schedules that are due, a scheduler, and the queue it sends to."""

from datetime import timedelta

import pytest
from celery import current_app
from django.utils import timezone
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask

from celeriac.conftest import await_answers
from celeriac.schedules.scheduler import DatabaseScheduler

TASK = "config.tasks.debug_task"


@pytest.fixture
def queue():
    """The messages that wait in the real broker's queue; it is empty at first. ``queue()`` takes them out."""
    with current_app.connection_for_write() as connection:
        channel = connection.default_channel
        bound = current_app.amqp.queues["default"](channel)
        bound.declare()
        bound.purge()

        def take():
            await_answers()
            return list(iter(lambda: channel.basic_get("default", no_ack=True), None))

        yield take
        bound.purge()


@pytest.fixture
def beats(transactional_db):
    """``beats()`` is one more scheduler, as another beat would have; all stop with the test."""
    started = []

    def start():
        started.append(DatabaseScheduler(app=current_app))
        return started[-1]

    yield start
    for scheduler in started:
        scheduler.close()


@pytest.fixture
def beat(beats):
    return beats()


@pytest.fixture
def broker_away():
    """Sending fails as it does while Redis restarts; call it for Redis to be back."""
    monkeypatch = pytest.MonkeyPatch()
    connection_for_write = current_app.connection_for_write
    away = "redis://127.0.0.1:1/0"
    monkeypatch.setattr(
        type(current_app._get_current_object()),
        "connection_for_write",
        lambda app, **options: connection_for_write(away, **options),
    )
    yield monkeypatch.undo
    monkeypatch.undo()


def every(seconds=10, ago=60, name="due", **fields) -> PeriodicTask:
    """A schedule every so many seconds that ran so many seconds ago; by default it is due, on time."""
    interval, _ = IntervalSchedule.objects.get_or_create(every=seconds, period=IntervalSchedule.SECONDS)
    last_run_at = timezone.now() - timedelta(seconds=ago) if ago else None
    return PeriodicTask.objects.create(
        **{"name": name, "task": TASK, "interval": interval, "last_run_at": last_run_at, **fields}
    )


def daily(hour, name="daily", zone="UTC", **fields) -> PeriodicTask:
    crontab = CrontabSchedule.objects.create(minute="0", hour=str(hour), timezone=zone)
    return PeriodicTask.objects.create(**{"name": name, "task": TASK, "crontab": crontab, **fields})
