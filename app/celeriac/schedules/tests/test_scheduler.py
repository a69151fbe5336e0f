"""Beat sends what is in the admin, each due slot once, and writes over nothing there."""

import faulthandler
import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from celery import shared_task
from django.db import connection, connections
from django.utils import timezone
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, PeriodicTasks

from celeriac.models import Schedule, ScheduleRun
from celeriac.schedules import leader, scheduler
from celeriac.schedules.tests.conftest import TASK, daily, every

# The scheduler closes connections between two looks, so these tests commit.
pytestmark = pytest.mark.django_db(transaction=True)
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


@pytest.fixture
def clock(monkeypatch):
    """The time that the scheduler reads; ``clock.now`` sets it."""

    class Clock:
        now = NOW

    for module in ("scheduler", "planner"):
        monkeypatch.setattr(f"celeriac.schedules.{module}.timezone.now", lambda: Clock.now)
    return Clock


# --- What is due ---------------------------------------------------------------------------------------------


def test_what_is_due_is_sent_and_counted(queue, beat):
    row = every(3600, ago=3605)

    beat.tick()

    (message,) = queue()
    run = ScheduleRun.objects.get()
    row.refresh_from_db()
    assert message.headers["task"] == TASK
    assert message.headers["periodic_task_name"] == "due"
    assert message.headers["id"] == run.task_id
    assert (run.kind, run.due_at) == ("on time", row.runs.get().due_at)
    assert run.sent_at
    assert row.total_run_count == 1
    assert timezone.now() - row.last_run_at < timedelta(hours=1)


def test_it_is_sent_once_and_the_next_look_is_soon(queue, beat):
    every(3600, ago=3605)

    waits = [beat.tick() for _ in range(3)]

    assert len(queue()) == 1
    assert 0 < waits[-1] <= scheduler.LOOK


@shared_task
def takes_arguments(a, b, c=1):
    """Never run: its message is looked at."""


def test_arguments_and_options_travel_with_it(queue, beat):
    fields = {"args": '[1, "b"]', "kwargs": '{"c": null}', "headers": '{"tenant": "a"}', "expire_seconds": 60}
    every(3600, ago=3605, task=takes_arguments.name, queue="default", priority=3, **fields)

    beat.tick()

    (message,) = queue()
    args, kwargs, _ = json.loads(message.body)
    assert (args, kwargs) == ([1, "b"], {"c": None})
    assert message.headers["tenant"] == "a"
    assert message.headers["expires"]
    assert message.properties["priority"] == 3


def test_an_interval_is_counted_from_its_due_times_so_that_late_looks_add_nothing(queue, beat):
    row = every(3600, ago=3605)

    beat.tick()

    due_at, next_run_at = row.runs.get().due_at, Schedule.objects.get().next_run_at
    assert next_run_at - due_at == timedelta(hours=1)


def test_the_first_run_of_a_new_interval_does_not_depend_on_how_often_beat_starts(queue, beats):
    """Stock counts from the start of beat: restarted more often than the interval, it never fires."""
    row = every(3600, ago=0)
    PeriodicTask.objects.filter(pk=row.pk).update(date_changed=timezone.now() - timedelta(seconds=3605))
    for _ in range(3):
        beat = beats()
        beat.tick()
        beat.close()

    assert len(queue()) == 1


def test_what_is_switched_off_is_not_sent(queue, beat):
    every(enabled=False)

    beat.tick()

    assert queue() == []
    assert Schedule.objects.get().next_run_at is None


def test_a_schedule_that_is_switched_on_later_is_noticed(queue, beat):
    row = every(enabled=False)
    beat.tick()

    row.enabled, row.last_run_at = True, timezone.now() - timedelta(minutes=1)
    row.save()
    beat.tick()

    assert len(queue()) == 1


def test_an_edit_by_sql_is_noticed_too(queue, beat, monkeypatch):
    row = every(3600, ago=15)
    beat.tick()
    monkeypatch.setattr("celeriac.schedules.planner.FULL_LOOK", 0)

    IntervalSchedule.objects.filter(pk=row.interval_id).update(every=10)  # calls no signal
    beat.tick()

    assert len(queue()) == 1


def test_a_one_off_runs_once_and_is_switched_off(queue, beat):
    row = every(3600, ago=3605, one_off=True)

    beat.tick()
    beat.tick()

    row.refresh_from_db()
    assert len(queue()) == 1
    assert not row.enabled


def test_a_clocked_schedule_runs_at_its_time_and_never_again(queue, beat, clock):
    at = NOW + timedelta(seconds=1)
    PeriodicTask.objects.create(
        name="clocked", task=TASK, clocked=ClockedSchedule.objects.create(clocked_time=at), one_off=True
    )
    beat.tick()
    assert queue() == []

    clock.now = at
    beat.tick()
    beat.tick()

    assert len(queue()) == 1
    assert ScheduleRun.objects.get().due_at == at


def test_start_and_expiry_bound_the_runs(queue, beat, clock):
    row = daily(8, start_time=NOW + timedelta(days=3), expires=NOW + timedelta(days=4))
    beat.tick()
    assert Schedule.objects.get().next_run_at == datetime(2026, 11, 24, 8, tzinfo=UTC)

    clock.now = datetime(2026, 11, 24, 8, tzinfo=UTC)
    beat.tick()

    assert row.runs.get().kind == "on time"
    assert Schedule.objects.get().next_run_at is None


def test_starting_beat_writes_over_no_edit(settings, beat):
    settings.CELERY_BEAT_SCHEDULE = {
        "due": {"task": TASK, "schedule": 1},
        "other": {"task": TASK, "schedule": 1},
    }
    row = every(args="[5]")

    beat.setup_schedule()

    assert list(PeriodicTask.objects.all()) == [row]
    row.refresh_from_db()
    assert (row.args, row.interval.every) == ("[5]", 10)


def test_a_changed_project_time_zone_resets_the_last_runs(beats, settings):
    row = every(3600, ago=15)
    beats().tick()
    beats().leader.resign()

    settings.TIME_ZONE = "Asia/Tokyo"
    connections["default"].close()
    beat = beats()
    beat.planner.refresh()

    row.refresh_from_db()
    assert row.last_run_at is None
    assert Schedule.objects.get().zone == "Asia/Tokyo"


# --- Missed runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1, 3, 8, 100])
def test_a_daily_run_that_was_missed_is_made_late_however_late(queue, beat, clock, hours):
    """Stock gives up after two hours."""
    daily(12, last_run_at=NOW - timedelta(days=1))
    clock.now = NOW + timedelta(hours=hours)

    beat.tick()

    run = ScheduleRun.objects.get()
    assert (run.kind, run.due_at) == ("late", NOW)
    assert len(queue()) == 1
    assert Schedule.objects.get().next_run_at > clock.now


def test_ten_missed_runs_are_one_late_run(queue, beat, clock):
    every(60, last_run_at=NOW)
    clock.now = NOW + timedelta(minutes=10, seconds=5)

    beat.tick()

    assert len(queue()) == 1
    assert Schedule.objects.get().next_run_at == NOW + timedelta(minutes=11)


def test_a_missed_run_is_skipped_where_that_is_wanted_and_said(queue, beat, clock):
    row = daily(12, last_run_at=NOW - timedelta(days=1))
    Schedule.objects.create(periodic_task=row, on_missed=Schedule.Missed.SKIP)
    clock.now = NOW + timedelta(hours=3)

    beat.tick()

    assert queue() == []
    run = ScheduleRun.objects.get()
    assert (run.kind, run.due_at, run.sent_at) == ("skipped", NOW, None)
    assert Schedule.objects.get().next_run_at == NOW + timedelta(days=1)
    row.refresh_from_db()
    assert row.total_run_count == 0


def test_what_another_beat_takes_over_in_time_is_not_missed(queue, beat, clock):
    row = daily(12, last_run_at=NOW - timedelta(days=1))
    Schedule.objects.create(periodic_task=row, on_missed=Schedule.Missed.SKIP)
    clock.now = NOW + timedelta(seconds=20)

    beat.tick()

    assert ScheduleRun.objects.get().kind == "on time"


def test_an_edit_makes_nothing_late(queue, beat):
    """A monthly schedule that becomes hourly has missed nothing."""
    row = every(30 * 86400, ago=20 * 86400)
    beat.tick()

    row.interval = IntervalSchedule.objects.create(every=1, period=IntervalSchedule.HOURS)
    row.save()
    beat.tick()

    assert [run.kind for run in ScheduleRun.objects.all()] == ["on time"]


# --- Each due slot once --------------------------------------------------------------------------------------


def test_only_one_of_two_beats_sends(queue, beats):
    every(3600, ago=3605)
    first, second = beats(), beats()

    first.tick()
    assert second.tick() == scheduler.LOOK

    assert len(queue()) == 1


def test_a_leader_that_stops_hands_over_at_once(queue, beats):
    first, second = beats(), beats()
    first.tick()
    every(3600, ago=3605)
    first.close()

    second.tick()

    assert len(queue()) == 1


def test_without_the_lock_two_beats_still_make_each_slot_once(queue, beats, monkeypatch):
    """The row is the fence: a leader that was paused believes for a while that it leads."""
    for number in range(40):
        every(3600, ago=3605, name=f"due {number}")
    monkeypatch.setattr(leader.Leader, "holds", lambda self: True)
    monkeypatch.setattr(leader.Leader, "is_sure", lambda self: True)
    four = [beats() for _ in range(4)]
    start = threading.Barrier(4)

    def look(beat):
        start.wait()
        beat.tick()
        connections.close_all()

    threads = [threading.Thread(target=look, args=[beat]) for beat in four]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    names = [message.headers["periodic_task_name"] for message in queue()]
    assert sorted(names) == sorted(set(names))
    assert len(names) == 40


def test_a_leader_that_was_silent_for_too_long_sends_nothing(queue, beat, monkeypatch):
    every(3600, ago=3605)
    monkeypatch.setattr(leader, "SURE", 0)

    beat.tick()

    assert queue() == []
    assert not ScheduleRun.objects.exists()


def test_postgres_ends_the_session_of_a_leader_that_says_nothing(beats, monkeypatch):
    monkeypatch.setattr(leader, "SILENCE", 4)
    hung, other = beats(), beats()
    hung.tick()
    assert not other.leader.holds()

    assert hung.leader.holds()
    time.sleep(5)  # longer than SILENCE: neither of the two has asked

    fresh = beats()
    fresh.tick()
    assert fresh.leader.is_sure()
    hung.tick()
    assert not hung.leader.is_sure()


def test_what_a_dead_leader_took_and_did_not_send_is_sent_by_the_next(queue, beats, monkeypatch):
    every(3600, ago=3605)
    first = beats()
    monkeypatch.setattr(first, "_send", lambda runs: None)  # dies between the row and the message
    first.tick()
    first.close()
    assert queue() == []

    second = beats()
    second.tick()
    second.tick()

    assert [message.headers["id"] for message in queue()] == [ScheduleRun.objects.get().task_id]


def test_a_message_whose_answer_was_lost_is_not_sent_twice(queue, beat):
    """Redis has it, the scheduler does not know: it sends again, and Redis drops that."""
    every(3600, ago=3605)
    beat.tick()
    ScheduleRun.objects.update(sent_at=None)

    beat.tick()

    assert ScheduleRun.objects.get().sent_at
    assert len(queue()) == 1


def test_runs_that_are_due_while_redis_is_away_are_sent_when_it_is_back(queue, beat, broker_away):
    every(3600, ago=3605)
    beat.tick()
    beat.tick()
    assert ScheduleRun.objects.get().sent_at is None

    broker_away()
    beat.tick()

    assert len(queue()) == 1
    assert ScheduleRun.objects.get().sent_at


def test_while_redis_is_away_nothing_piles_up(queue, beat, broker_away, clock):
    every(10, last_run_at=NOW - timedelta(seconds=15))
    for _ in range(5):
        beat.tick()
        clock.now += timedelta(hours=1)
    broker_away()

    beat.tick()

    assert len(queue()) == 2  # the one that was taken, and one for all that passed


# --- A row that got bad ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"headers": "[]"}, "headers"),
        ({"headers": "null"}, "headers"),
        ({"args": "5"}, "args"),
        ({"args": "{not json"}, "args"),
        ({"kwargs": "[1]"}, "kwargs"),
        ({"task": "a.task.that.a.deploy.dropped"}, "no task of this app"),
        ({"queue": "defualt"}, "queue"),
        ({"interval": None}, ""),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_bad_row_stops_no_other_and_is_shown_with_its_reason(queue, beat, columns, reason):
    bad, _good = every(3600, ago=3605, name="bad"), every(10, ago=15, name="good")
    PeriodicTask.objects.filter(pk=bad.pk).update(**columns)

    beat.tick()

    assert [message.headers["periodic_task_name"] for message in queue()] == ["good"]
    broken = Schedule.objects.get(periodic_task=bad)
    assert reason in broken.broken.lower()
    assert broken.broken
    assert broken.next_run_at is None


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"minute": "61"}, "61"),
        ({"day_of_month": "30", "month_of_year": "2"}, "30"),
        ({"hour": "no hour"}, "hour"),
        ({"timezone": "Mars/Olympus"}, "Mars/Olympus"),
    ],
)
def test_a_bad_crontab_stops_no_other(queue, beat, columns, reason):
    bad, _good = daily(8, name="bad"), every(3600, ago=3605, name="good")
    assignments = ", ".join(f"{column} = %s" for column in columns)
    with connection.cursor() as cursor:  # as no form would write it
        cursor.execute(
            f"UPDATE django_celery_beat_crontabschedule SET {assignments} WHERE id = %s",
            [*columns.values(), bad.crontab_id],
        )

    beat.tick()

    assert [message.headers["periodic_task_name"] for message in queue()] == ["good"]
    assert reason in Schedule.objects.get(periodic_task_id=bad.pk).broken


@pytest.mark.parametrize("number", [0, -5, 2_000_000_000])
def test_an_impossible_interval_sends_nothing_at_all(queue, beat, number):
    """Stock sent 1,495 messages in ten seconds for ``every=0``."""
    bad = every(7, ago=15, name="bad")
    IntervalSchedule.objects.filter(pk=bad.interval_id).update(every=number, period="days")

    beat.tick()
    beat.tick()

    assert queue() == []


def test_a_row_that_was_mended_runs_again(queue, beat):
    row = every(3600, ago=3605)
    PeriodicTask.objects.update(task="a.task.that.a.deploy.dropped")
    beat.tick()
    assert queue() == []

    PeriodicTask.objects.update(task=TASK)
    PeriodicTasks.update_changed()
    beat.tick()

    assert len(queue()) == 1
    assert Schedule.objects.get(periodic_task=row).broken == ""


def test_a_row_that_turns_bad_between_two_looks_stops_no_other(queue, beat):
    bad = daily(8, name="bad")
    every(3600, ago=3605, name="good")
    beat.planner.refresh()
    Schedule.objects.filter(periodic_task=bad).update(next_run_at=timezone.now())
    CrontabSchedule.objects.filter(pk=bad.crontab_id).update(hour="no hour")

    beat.tick()

    assert [message.headers["periodic_task_name"] for message in queue()] == ["good"]


def test_a_row_that_somebody_holds_stops_no_other(queue, beat):
    held = every(3600, ago=3605, name="held")
    every(3600, ago=3605, name="free")
    beat.planner.refresh()
    other = connections.create_connection("default")
    other.set_autocommit(False)
    with other.cursor() as cursor:
        cursor.execute("UPDATE django_celery_beat_periodictask SET description = 'x' WHERE id = %s", [held.pk])

    beat.tick()
    assert [message.headers["periodic_task_name"] for message in queue()] == ["free"]

    other.rollback()
    other.close()
    beat.tick()
    assert [message.headers["periodic_task_name"] for message in queue()] == ["held"]


# --- Alive -----------------------------------------------------------------------------------------------------


@pytest.fixture
def heartbeat(monkeypatch, tmp_path):
    """The heartbeat file that a scheduler of this process would touch; its watchdog is called off in the end."""
    monkeypatch.setenv("HEARTBEAT_FILE", str(tmp_path / "beat.alive"))
    yield tmp_path / "beat.alive"
    faulthandler.cancel_dump_traceback_later()


def test_every_tick_beats(heartbeat, beats):
    beat = beats()
    os.utime(heartbeat, (0, 0))  # dead since long ago

    beat.tick()

    assert heartbeat.stat().st_mtime > time.time() + 20


def test_a_beat_that_stands_by_is_alive_too(heartbeat, beats):
    leading = beats()
    leading.tick()
    standby = beats()
    os.utime(heartbeat, (0, 0))

    standby.tick()

    assert heartbeat.stat().st_mtime > time.time() + 20
