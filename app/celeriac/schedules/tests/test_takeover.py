"""Two beats, real processes: whatever becomes of the one that leads, the other goes on, and no slot is made twice."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from celeriac.models import ScheduleRun
from celeriac.schedules import leader as election
from celeriac.schedules import scheduler
from celeriac.schedules.tests.conftest import every
from tests.processes import APP, ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)
#: Seconds within which another beat has to have sent the next run.
PROMISED = 15


@pytest.fixture
def start_beat(tmp_path):
    """Start one more beat as ``services/beat/start`` does; its standard error goes to a file."""
    started: list[subprocess.Popen[bytes]] = []
    environment = os.environ | {
        "POSTGRES_DB": connection.settings_dict["NAME"],  # the tests' database
        "PYTHONPATH": f"{ROOT}:{APP}",
        "SERVICE": "beat",
        "DEMOS": "false",
    }

    def start() -> subprocess.Popen[bytes]:
        log = (tmp_path / f"beat-{len(started)}.log").open("wb")
        command = [sys.executable, "-m", "celery", "--quiet", "-A", "config", "beat"]
        started.append(subprocess.Popen(command, cwd=APP, env=environment, stdout=log, stderr=log))
        return started[-1]

    yield start
    for beat in started:
        if beat.poll() is None:
            beat.send_signal(signal.SIGCONT)
            beat.kill()
            beat.wait()


def leading(beats):
    """The beat that holds the lock."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE locktype = 'advisory' "
            "AND granted AND application_name LIKE 'celeriac-beat-leader%'"
        )
        names = [name for (name,) in cursor.fetchall()]
    return next((beat for beat in beats for name in names if name.endswith(f" {beat.pid}")), None)


def at_the_lock():
    """How many beats lead or stand by."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'celeriac-beat-leader%'")
        return cursor.fetchone()[0]


def sent_since(moment):
    return ScheduleRun.objects.filter(sent_at__gt=moment).count()


@pytest.fixture
def two(start_beat, queue):
    """Two beats, of which one leads, and a schedule every second."""
    every(1, ago=0)
    beats = [start_beat(), start_beat()]
    eventually(lambda: leading(beats) and sent_since(timezone.now() - timedelta(days=1)))
    eventually(lambda: at_the_lock() == 2, what="the other one stands by")
    return beats


def stop(beats):
    for beat in beats:
        beat.terminate()
        beat.wait(60)


def each_slot_was_sent_once(queue):
    ids = Counter(message.headers["id"] for message in queue())
    assert set(ids.values()) == {1}
    sent, made = (
        set(runs.values_list("task_id", flat=True))
        for runs in (ScheduleRun.objects.exclude(sent_at=None), ScheduleRun.objects.all())
    )
    assert sent <= ids.keys() <= made  # a beat may have been stopped before it had noted that one was sent


def goes_on_in_time(struck_at):
    """By Postgres's clock."""
    eventually(lambda: sent_since(struck_at), what="a beat sends", every=0.1)
    first = ScheduleRun.objects.filter(sent_at__gt=struck_at).earliest("sent_at").sent_at
    assert (first - struck_at).total_seconds() < PROMISED


def test_a_silent_leader_is_noticed_within_what_is_promised():
    assert election.SILENCE + 2 * scheduler.LOOK < PROMISED


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda number: number.name)
def test_another_beat_takes_over_in_time(two, queue, number):
    leader = leading(two)
    leader.send_signal(number)
    time.sleep(0.3)  # what it was just sending
    struck_at = timezone.now()

    goes_on_in_time(struck_at)

    assert leading(two) is not leader
    if number == signal.SIGSTOP:  # wakes up with what it knew, and sends nothing of it
        leader.send_signal(signal.SIGCONT)
        time.sleep(3)
        assert leading(two) is not leader
    stop(two)
    each_slot_was_sent_once(queue)


def test_a_leader_whose_sessions_postgres_ended_goes_on_or_hands_over(two, queue):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'celeriac-beat%'"
        )
    time.sleep(0.3)
    struck_at = timezone.now()

    goes_on_in_time(struck_at)

    assert all(beat.poll() is None for beat in two)
    stop(two)
    each_slot_was_sent_once(queue)
