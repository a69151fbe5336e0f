"""Keeps every schedule's ``next_run_at``, and says which cannot be run and why.

A schedule is planned when it is new, and anew when what it was planned from has changed: by the admin, by SQL, by
a deploy that brought or dropped its task. Postgres compares the fingerprints, so that ten thousand schedules
that have not changed cost one query.
"""

import logging
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from hashlib import md5
from typing import Any

from celery import Celery
from django.conf import settings
from django.db import connection
from django.db.models import QuerySet
from django.utils import timezone
from django_celery_beat.models import PeriodicTask, PeriodicTasks

from celeriac.models import Schedule
from celeriac.schedules.plan import next_run
from celeriac.schedules.problems import in_words, problems

logger = logging.getLogger(__name__)

#: Seconds between two looks at every row; what the admin changes is seen at once.
FULL_LOOK = 60.0
#: How long ago a change can have been made for runs to count from it, and not from now.
RECENT = timedelta(minutes=1)
CHUNK = 1000

STALE = """
WITH row AS (
    SELECT p.id, x.timing AS timing_was, x.content AS content_was,
        md5(ROW(p.enabled, p.start_time, p.expires, i.every, i.period, c.minute, c.hour, c.day_of_week,
            c.day_of_month, c.month_of_year, c.timezone, s.event, s.latitude, s.longitude, k.clocked_time,
            %(zone)s)::text) AS timing,
        md5(ROW(p.task, p.args, p.kwargs, p.headers, p.queue, p.exchange, p.routing_key, p.priority,
            p.expire_seconds, p.one_off, p.interval_id, p.crontab_id, p.solar_id, p.clocked_id,
            x.any_task IS TRUE, %(code)s)::text) AS content
    FROM django_celery_beat_periodictask p
    LEFT JOIN celeriac_schedule x ON x.periodic_task_id = p.id
    LEFT JOIN django_celery_beat_intervalschedule i ON i.id = p.interval_id
    LEFT JOIN django_celery_beat_crontabschedule c ON c.id = p.crontab_id
    LEFT JOIN django_celery_beat_solarschedule s ON s.id = p.solar_id
    LEFT JOIN django_celery_beat_clockedschedule k ON k.id = p.clocked_id)
SELECT id, timing, content FROM row WHERE timing IS DISTINCT FROM timing_was OR content IS DISTINCT FROM content_was"""


class Planner:
    """One scheduler's view of what has changed."""

    def __init__(self, app: Celery, alive: Callable[[], object] = bool) -> None:
        """``alive`` is called every now and then while planning takes long."""
        self.alive = alive
        app.loader.init_worker()  # imports the tasks, once
        names = sorted([*app.tasks, *app.amqp.queues])
        self.code = md5("|".join(names).encode(), usedforsecurity=False).hexdigest()
        self.looked_at = 0.0
        self.changed_at: datetime | None = None

    def refresh(self) -> None:
        """Plan what has changed since the last time."""
        changed_at = PeriodicTasks.last_change()
        now = time.monotonic()
        if changed_at == self.changed_at and self.looked_at and now - self.looked_at < FULL_LOOK:
            return
        self.plan(self._stale(), changed_at)
        self.changed_at, self.looked_at = changed_at, now

    def plan(self, stale: dict[int, tuple[str, str]], changed_at: datetime | None = None) -> None:
        """Plan these: ``{id of the periodic task: (timing, content)}``."""
        now = timezone.now()
        edited_at = changed_at if changed_at and now - RECENT < changed_at < now else now
        for start in range(0, len(stale), CHUNK):
            ids = list(stale)[start : start + CHUNK]
            plans = [self._plan(task, error, stale[task.pk], edited_at) for task, error in load(ids)]
            self.alive()
            Schedule.objects.bulk_create(
                plans,
                update_conflicts=True,
                unique_fields=["periodic_task"],
                update_fields=["next_run_at", "timing", "content", "zone", "broken"],
            )

    def _stale(self) -> dict[int, tuple[str, str]]:
        zone = settings.TIME_ZONE
        # Celery's rule: the last run was one of another zone's clock.
        moved = Schedule.objects.exclude(zone=zone).exclude(zone="").values("periodic_task")
        PeriodicTask.objects.filter(pk__in=moved).update(last_run_at=None)
        with connection.cursor() as cursor:
            cursor.execute(STALE, {"zone": zone, "code": self.code})
            return {pk: (timing, content) for pk, timing, content in cursor.fetchall()}

    def _plan(self, task: PeriodicTask, error: str, fingerprints: tuple[str, str], edited_at: datetime) -> Schedule:
        before: Schedule | None = getattr(task, "plan", None)
        plan = Schedule(periodic_task=task, zone=settings.TIME_ZONE)
        plan.timing, plan.content = fingerprints
        plan.broken = error or in_words(problems(task, any_task=bool(before and before.any_task)))
        if task.enabled and not plan.broken:
            try:
                if before and before.timing == plan.timing and not before.broken:
                    plan.next_run_at = before.next_run_at
                else:
                    plan.next_run_at = first_run(task, before, edited_at)
            except Exception as problem:  # one bad row stops no other
                plan.broken = str(problem)
        if task.enabled and plan.broken:
            logger.error("the schedule %r cannot be run: %s", task.name, plan.broken)
        return plan


def first_run(task: PeriodicTask, before: Schedule | None, edited_at: datetime) -> datetime | None:
    """When a schedule is due that is new (``before`` is ``None``), or was edited at ``edited_at``."""
    if before is None or not before.timing:
        # New here: from its last run on, if it has had one elsewhere. Interval or not, what was missed is late.
        return next_run(task, task.last_run_at or min(task.date_changed, edited_at))
    if task.interval and task.last_run_at and not task.start_time:
        due = next_run(task, task.last_run_at)
        return due and max(due, edited_at)  # overdue by the new interval: at once, and not late
    return next_run(task, edited_at)


def load(ids: list[int]) -> Iterator[tuple[PeriodicTask, str]]:
    """The rows with these ids, each with an empty text, or why it cannot even be read.

    A time zone that does not exist, written by SQL, is refused when the row is read, and all that are read with it.
    """
    rows = PeriodicTask.objects.select_related("interval", "crontab", "solar", "clocked", "plan")
    try:
        yield from [(task, "") for task in rows.filter(pk__in=ids)]
    except Exception:  # whatever a column's own type raises
        for pk in ids:
            yield from _load_one(rows, pk)


def _load_one(rows: QuerySet[PeriodicTask], pk: int) -> Iterator[tuple[PeriodicTask, str]]:
    try:
        found: Any = rows.filter(pk=pk).first()
        error = ""
    except Exception as problem:
        found = PeriodicTask.objects.select_related("plan").filter(pk=pk).first()
        error = " ".join(getattr(problem, "messages", [str(problem)]))
    if found:
        yield found, error
