"""The scheduler that beat runs: every due slot of every schedule once, with any number of beats.

Each look: who leads (:mod:`.leader`); what has changed (:mod:`.planner`); what is due. A due slot becomes a row,
unique on schedule and due time, in the same statement that moves its schedule on; then its message is sent
(:mod:`.runs`). Whoever dies in between leaves a row that says what is still to be sent, under an id at which
Redis knows a message it has had.
"""

import logging
from datetime import datetime, timedelta
from typing import Any

from celery.utils import uuid
from django.db import close_old_connections, connection
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler as StockScheduler

from celeriac.broker import BROKER_AWAY
from celeriac.health.heartbeat import Heartbeat
from celeriac.jobs.reconcile import Reconciler
from celeriac.models import Schedule, ScheduleRun
from celeriac.postgres import POSTGRES_AWAY
from celeriac.schedules.leader import Leader
from celeriac.schedules.plan import next_run
from celeriac.schedules.planner import Planner, load
from celeriac.schedules.runs import Sender

logger = logging.getLogger(__name__)

#: Seconds between two looks: soon enough to keep the lead, to take it over, and to see an edit.
LOOK = 2.0
#: Slots taken in one statement, and sent in one round trip.
BATCH = 500
#: How late a run may be and count as on time: longer than it takes another beat to take over.
MISSED_AFTER = timedelta(seconds=60)

TAKE = """
WITH due AS (
    SELECT * FROM unnest(%s::int[], %s::timestamptz[], %s::timestamptz[], %s::text[], %s::text[])
        AS due (id, due_at, next_run_at, kind, task_id)),
free AS (  -- a row that somebody holds waits for the next look, and nobody for it
    SELECT s.periodic_task_id AS id FROM celeriac_schedule s
    JOIN django_celery_beat_periodictask p ON p.id = s.periodic_task_id JOIN due ON due.id = p.id
    FOR NO KEY UPDATE OF s, p SKIP LOCKED),
moved AS (
    UPDATE celeriac_schedule SET next_run_at = due.next_run_at FROM due JOIN free USING (id)
    WHERE periodic_task_id = due.id AND celeriac_schedule.next_run_at = due.due_at
    RETURNING periodic_task_id),
taken AS (
    INSERT INTO celeriac_schedulerun (periodic_task_id, due_at, kind, task_id, error)
    SELECT id, due_at, kind, task_id, '' FROM due JOIN moved ON periodic_task_id = id
    ON CONFLICT (periodic_task_id, due_at) DO NOTHING
    RETURNING id, periodic_task_id, kind, task_id),
counted AS (
    UPDATE django_celery_beat_periodictask p
    SET last_run_at = CASE kind WHEN 'skipped' THEN last_run_at ELSE now() END,
        total_run_count = total_run_count + (kind <> 'skipped')::int,
        enabled = enabled AND NOT one_off
    FROM taken WHERE p.id = periodic_task_id)
SELECT id, periodic_task_id, task_id FROM taken WHERE kind <> 'skipped'"""


class DatabaseScheduler(StockScheduler):
    """django-celery-beat's scheduler, on its models, with due times of its own.

    Stock writes ``CELERY_BEAT_SCHEDULE`` and its own defaults over the operators' edits at every start; here
    :mod:`celeriac.schedules.seed` writes them once, and the rows belong to the admin.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.heartbeat = Heartbeat()
        self.heartbeat.beat()
        self.leader = Leader()
        super().__init__(*args, **kwargs)
        self.planner = Planner(self.app, self.alive)
        self.sender = Sender(self.app)
        self.reconciler = Reconciler(self.app, self.alive)
        self.away = ""  # what was last said to be away

    def setup_schedule(self) -> None:
        """Nothing is written here."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due; return the seconds until the next look."""
        self.heartbeat.beat()
        close_old_connections()
        try:
            if not self.leader.holds():
                self.reconciler = Reconciler(self.app, self.alive)  # what it knew is old when this beat leads again
                return LOOK
            self.reconciler.look()
            self.planner.refresh()
            self.send_unsent()
            wait = self.send_due()
        except POSTGRES_AWAY as error:
            return self._wait_for("Postgres", error)
        except BROKER_AWAY as error:
            return self._wait_for("Redis", error)
        self._is_back()
        return wait

    def alive(self) -> None:
        """In the middle of something long: keep the lead, and the container."""
        if not self.leader.is_fresh():
            self.leader.holds()
            self.heartbeat.beat()

    def send_unsent(self) -> None:
        """Send what was taken and not sent: by a beat that died, or by this one while Redis was away."""
        runs = list(ScheduleRun.objects.unsent().order_by("due_at")[:BATCH])
        tasks = {task.pk: task for task in self._readable([run.periodic_task_id for run in runs])}
        for run in runs:
            if task := tasks.get(run.periodic_task_id):
                run.periodic_task = task
            else:
                run.error = "its schedule cannot be read"
        self._send(runs)

    def send_due(self) -> float:
        """Take the due slots and send them; return the seconds until the next is due, or the next look."""
        while True:
            now = timezone.now()
            due = Schedule.objects.filter(next_run_at__lte=now, periodic_task__enabled=True, broken="")
            ids = list(due.order_by("next_run_at").values_list("pk", flat=True)[:BATCH])
            self._send(self._take(self._readable(ids), now))
            self.heartbeat.beat()
            if len(ids) < BATCH:
                return self._until_next()
            if not self.leader.holds():
                return LOOK

    def _readable(self, ids: list[int]) -> list[PeriodicTask]:
        """The rows with these ids, but for those that got bad since they were planned."""
        found = list(load(ids)) if ids else []
        for task, error in found:
            if error:
                Schedule.objects.filter(pk=task.pk).update(broken=error, next_run_at=None)
        return [task for task, error in found if not error]

    def _take(self, tasks: list[PeriodicTask], now: datetime) -> list[ScheduleRun]:
        """Write the runs down, each unless somebody has; return those that this process is to send."""
        slots = [slot for task in tasks if (slot := self._slot(task, now))]
        if not slots or not self.leader.is_sure():
            return []
        with connection.cursor() as cursor:
            cursor.execute(TAKE, [list(column) for column in zip(*slots, strict=True)])
            taken = cursor.fetchall()
        by_id = {task.pk: task for task in tasks}
        return [ScheduleRun(id=pk, periodic_task=by_id[task], task_id=task_id) for pk, task, task_id in taken]

    def _slot(self, task: PeriodicTask, now: datetime) -> tuple[int, datetime, datetime | None, str, str] | None:
        """The row to write for a due task: its slot, the one after it, and whether it is made."""
        due_at, policy = task.plan.next_run_at, task.plan.on_missed
        if not due_at or due_at > now:  # another beat took it between the two queries
            return None
        try:
            # The first one to come: slots that passed meanwhile are this one, late.
            next_at = None if task.one_off else next_run(task, now, anchor=due_at)
        except Exception as error:  # became bad since it was planned
            Schedule.objects.filter(pk=task.pk).update(broken=str(error), next_run_at=None)
            return None
        kind = ScheduleRun.Kind.ON_TIME
        if now - due_at > MISSED_AFTER:
            kind = ScheduleRun.Kind.SKIPPED if policy == Schedule.Missed.SKIP else ScheduleRun.Kind.LATE
        return task.pk, due_at, next_at, kind, uuid()

    def _send(self, runs: list[ScheduleRun]) -> None:
        if not runs or not self.leader.is_sure():
            return
        self.sender.send(runs)
        ScheduleRun.objects.filter(pk__in=[run.pk for run in runs if run.sent_at]).update(sent_at=timezone.now())
        for run in runs:
            if run.error:
                ScheduleRun.objects.filter(pk=run.pk).update(error=run.error)
                Schedule.objects.filter(pk=run.periodic_task_id).update(broken=run.error, next_run_at=None)

    def _until_next(self) -> float:
        soon = timezone.now() + timedelta(seconds=LOOK)
        due = Schedule.objects.filter(next_run_at__lt=soon, periodic_task__enabled=True, broken="")
        first = due.order_by("next_run_at").values_list("next_run_at", flat=True).first()
        return max(0.001, (first - timezone.now()).total_seconds()) if first else LOOK

    def _wait_for(self, what: str, error: Exception) -> float:
        if self.away != what:
            self.away = what
            logger.error("waiting for %s: %s", what, " ".join(str(error).split()))
        return 1.0

    def _is_back(self) -> None:
        if self.away:
            logger.info("%s is back", self.away)
            self.away = ""

    def close(self) -> None:
        """Let the next beat lead at once."""
        self.leader.resign()
        self.sender.close()

    def sync(self) -> None:
        """Nothing is kept in memory."""
