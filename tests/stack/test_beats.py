"""``docker compose up --scale beat=2``: one beat makes the runs, and whatever becomes of it, the other goes on."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.stack.project import Stack, docker
from tests.waiting import eventually

pytestmark = pytest.mark.stack

#: Seconds within which the other beat has to have sent the next run.
PROMISED = 15
NOTES = "/var/lib/celeriac/notes-beats"
SCHEDULE = f"""
import json
from celeriac.models import Schedule
from django.db import transaction
from django_celery_beat.models import IntervalSchedule, PeriodicTask
with transaction.atomic():
    every_second, _ = IntervalSchedule.objects.get_or_create(every=1, period="seconds")
    row = PeriodicTask.objects.create(
        name="two beats", task="tests.tasks.work", interval=every_second, args=json.dumps(["{NOTES}", "run"]))
    Schedule.objects.create(periodic_task=row, any_task=True)  # only the workers know it
"""


def scale(stack: Stack, beats: int) -> None:
    stack.compose("up", "--detach", "--no-recreate", "--scale", f"beat={beats}", "--wait", "beat")


@pytest.fixture
def two(stack: Stack) -> Iterator[Stack]:
    """The stack with two beats and a schedule every second."""
    scale(stack, 2)
    stack.exec("worker", "rm", "-f", NOTES)
    stack.python(SCHEDULE)
    eventually(lambda: runs(stack), what="it runs")
    eventually(lambda: at_the_lock(stack) == 2, what="the other one stands by")
    yield stack
    stack.python('from django_celery_beat.models import *; PeriodicTask.objects.filter(name="two beats").delete()')
    scale(stack, 1)


def runs(stack: Stack, since: str = "-infinity") -> int:
    sent = f"SELECT count(*) FROM celeriac_schedulerun WHERE sent_at > '{since}'"
    return stack.sql(sent)[0]["count"]


def at_the_lock(stack: Stack) -> int:
    """How many beats lead or stand by."""
    beats = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'celeriac-beat-leader%'"
    return stack.sql(beats)[0]["count"]


def leader(stack: Stack) -> dict[str, Any] | None:
    """The container whose beat holds the lock; it tells Postgres its name, which is the container's."""
    held = stack.sql(
        "SELECT split_part(application_name, ' ', 2) AS host FROM pg_locks JOIN pg_stat_activity USING (pid) "
        "WHERE locktype = 'advisory' AND granted AND application_name LIKE 'celeriac-beat-leader%'"
    )
    return next((beat for beat in stack.containers("beat") for row in held if beat["Id"].startswith(row["host"])), None)


def kill(stack: Stack, beat: dict[str, Any]) -> Callable[[], object]:
    (pid,) = (
        line.split()[0]
        for line in docker("top", beat["Id"], "-eo", "pid,args").stdout.splitlines()[1:]
        if "tini" not in line
    )
    stack.signal("KILL", int(pid))
    return lambda: None  # its restart policy starts it again


def freeze(stack: Stack, beat: dict[str, Any]) -> Callable[[], object]:
    docker("pause", beat["Id"])
    return lambda: docker("unpause", beat["Id"])


def cut_off(stack: Stack, beat: dict[str, Any]) -> Callable[[], object]:
    """From the database, and from nothing else: without a closed socket that anyone would notice."""
    docker("network", "disconnect", "celeriac-test_database", beat["Id"])
    return lambda: docker("network", "connect", "celeriac-test_database", beat["Id"])


@pytest.mark.parametrize("strike", [kill, freeze, cut_off])
def test_another_beat_takes_over_in_time_and_each_slot_is_made_once(
    two: Stack, strike: Callable[[Stack, dict[str, Any]], Callable[[], object]]
) -> None:
    struck = eventually(lambda: leader(two), what="one of them leads")
    mend = strike(two, struck)
    try:
        time.sleep(0.3)  # what it was just sending
        moment = two.sql("SELECT now()")[0]["now"]
        eventually(lambda: runs(two, moment), what="the other beat sends", every=0.2)
        first = f"SELECT extract(epoch FROM min(sent_at) - '{moment}'::timestamptz) AS took FROM celeriac_schedulerun"
        took = two.sql(f"{first} WHERE sent_at > '{moment}'")[0]["took"]
        assert took < PROMISED, "by Postgres's clock"
    finally:
        mend()
    time.sleep(5)  # the one that was struck is back, with what it knew
    two.healthy()
    two.python(
        'from django_celery_beat.models import *; PeriodicTask.objects.filter(name="two beats").update(enabled=0)'
    )
    two.python("from django_celery_beat.models import *; PeriodicTasks.update_changed()")
    time.sleep(4)

    def ran() -> int:
        return two.notes(NOTES).count("run ended")

    made = "SELECT count(*) FROM celeriac_schedulerun JOIN django_celery_beat_periodictask p ON p.id = periodic_task_id"
    total = two.sql(f"{made} WHERE sent_at IS NOT NULL AND name = 'two beats'")[0]["count"]
    eventually(lambda: ran() >= total, what="every run that was sent has run")
    time.sleep(3)
    assert ran() == total
