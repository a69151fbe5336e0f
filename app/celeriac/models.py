"""The platform's own tables."""

import uuid
from typing import Any, Self

from django.conf import settings
from django.db import models
from django.http import HttpRequest
from django_celery_beat.models import PeriodicTask

# --- Who started what --------------------------------------------------------------------------------------


class OwnedQuerySet(models.QuerySet):
    def owned_by(self, request: HttpRequest) -> Self:
        """What belongs to the user who asks, or was made in this browser's session before they signed in."""
        mine = models.Q(user=request.user) if request.user.is_authenticated else models.Q(pk__in=[])
        if visitor := request.session.get("visitor"):
            mine |= models.Q(visitor=visitor)
        return self.filter(mine)


class Owned(models.Model):
    """A row that belongs to a user, or to the session of somebody who is not signed in."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, blank=True, editable=False)
    visitor = models.CharField(max_length=36, blank=True, db_index=True, editable=False)

    objects = OwnedQuerySet.as_manager()

    class Meta:
        abstract = True

    @staticmethod
    def owner(request: HttpRequest) -> dict[str, Any]:
        """The two fields for whoever asks; gives an anonymous session its mark, a random one."""
        if request.user.is_authenticated:
            return {"user": request.user}
        # Not the session's key, which is a password of sorts, and changes when its owner signs in.
        return {"visitor": request.session.setdefault("visitor", str(uuid.uuid4()))}


class TrackedTask(Owned):
    """A task that somebody watches; celeriac.tracking says how it is made and shown."""

    task_id = models.CharField(max_length=255, primary_key=True)
    label = models.CharField(max_length=200)
    started_at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        ordering = ["-started_at"]

    def __str__(self) -> str:
        return self.label


# --- Schedules ---------------------------------------------------------------------------------------------


class SeededSchedule(models.Model):
    """A schedule of ``CELERY_BEAT_SCHEDULE`` that was written once and belongs to the admin since."""

    name = models.CharField(max_length=200, unique=True)

    def __str__(self) -> str:
        return self.name


class Schedule(models.Model):
    """What beat knows of a periodic task: when it is due next, and what became of it when nobody was there."""

    class Missed(models.TextChoices):
        LATE = "late", "run once, late"
        SKIP = "skip", "skip"

    periodic_task = models.OneToOneField(PeriodicTask, models.CASCADE, primary_key=True, related_name="plan")
    on_missed = models.CharField(
        "when missed",
        max_length=4,
        choices=Missed,
        default=Missed.LATE,
        help_text="What to do about runs that are more than a minute late: no scheduler was there, or it was busy.",
    )
    any_task = models.BooleanField(
        "not in this app",
        default=False,
        help_text="The task belongs to another app that reads these queues, so its name cannot be checked here.",
    )
    #: Empty when no run is to come.
    next_run_at = models.DateTimeField(null=True, editable=False, db_index=True)
    #: Fingerprints of what ``next_run_at`` and ``broken`` were computed from; celeriac.schedules.planner.
    timing = models.CharField(max_length=32, blank=True, editable=False)
    content = models.CharField(max_length=32, blank=True, editable=False)
    #: The project's time zone at that time.
    zone = models.CharField(max_length=64, blank=True, editable=False)
    #: Why it cannot be run, in words for its operator.
    broken = models.TextField(blank=True, editable=False)

    def __str__(self) -> str:
        return self.periodic_task.name


def new_task_id() -> str:
    return str(uuid.uuid4())


class ScheduleRunQuerySet(models.QuerySet):
    def unsent(self) -> Self:
        """What is still to be sent."""
        return self.filter(sent_at=None, error="").exclude(kind=ScheduleRun.Kind.SKIPPED)


class ScheduleRun(models.Model):
    """One due slot of a schedule, written before its message is sent: what has a row is never made again."""

    class Kind(models.TextChoices):
        ON_TIME = "on time"
        LATE = "late"
        SKIPPED = "skipped"
        BY_HAND = "by hand"

    periodic_task = models.ForeignKey(PeriodicTask, models.CASCADE, related_name="runs")
    due_at = models.DateTimeField()
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.ON_TIME)
    #: Given before the message is sent, so that sending it again is sending the same one.
    task_id = models.CharField(max_length=255, db_index=True, default=new_task_id)
    #: Empty for a skipped run, and while the message could not be sent: the scheduler tries again.
    sent_at = models.DateTimeField(null=True)
    #: Why it will not be sent.
    error = models.TextField(blank=True)
    #: Who ran it by hand.
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True)

    objects = ScheduleRunQuerySet.as_manager()

    class Meta:
        ordering = ["-due_at"]
        constraints = [
            models.UniqueConstraint(fields=["periodic_task", "due_at"], name="each_due_slot_once"),
        ]
        indexes = [
            models.Index(
                fields=["due_at"],
                condition=models.Q(sent_at=None, error="") & ~models.Q(kind="skipped"),
                name="runs_to_send",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.periodic_task.name}, {self.due_at:%Y-%m-%d %H:%M:%S %Z}"


# --- Durable jobs --------------------------------------------------------------------------------------------


class Job(models.Model):
    """A durable task: what Postgres remembers of it, from the transaction that asked for it to its end.

    Outbox (``waiting``, not published), ledger (``running``, under a lease), dead-letter box (``failed``) and
    audit in one row. celeriac.jobs says how it moves.
    """

    class State(models.TextChoices):
        WAITING = "waiting"
        RUNNING = "running"
        #: Its effect is committed; what follows it (its chain, its result) may not be yet.
        RETURNED = "returned"
        SUCCEEDED = "succeeded"
        FAILED = "failed"
        CANCELLED = "cancelled"

    #: The task's id, and the idempotency key to hand to mail and payment services: the same at every attempt.
    #: Compared byte by byte, not by the rules of a language.
    id = models.CharField(primary_key=True, max_length=255, db_collation="C")
    task = models.CharField(max_length=255)
    queue = models.CharField(max_length=200)
    args = models.TextField("arguments")  # as text, to read; the message has them as they are
    #: Celery's message: headers, properties and routing as a map, and the body as JSON text.
    message = models.JSONField()
    body = models.TextField()
    state = models.CharField(max_length=9, choices=State, default=State.WAITING)
    #: Celery's own count, which tells this message from the ones before it.
    retries = models.IntegerField(default=0)
    #: How often a worker has started it, and how often one died under it.
    attempts = models.IntegerField(default=0)
    crashes = models.IntegerField(default=0)
    #: Counted up by every claim: whoever has an older one may not write any more.
    token = models.BigIntegerField(default=0)
    created_at = models.DateTimeField()
    #: Not before this time: countdown, eta, or a retry's pause.
    due_at = models.DateTimeField()
    #: When its message was given to Redis. Empty when it is not there, and of a new job until a worker or the
    #: reconciler has seen that it is (celeriac.jobs.receipts).
    published_at = models.DateTimeField(null=True)
    worker = models.CharField(max_length=200, blank=True)
    started_at = models.DateTimeField(null=True)
    #: Until when its worker counts as alive; renewed while it is.
    lease_until = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    result = models.TextField(blank=True)  # JSON
    error = models.TextField(blank=True)
    traceback = models.TextField(blank=True)

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(
                fields=["due_at"], condition=models.Q(state="waiting", published_at=None), name="jobs_to_publish"
            ),
            models.Index(fields=["published_at"], condition=models.Q(state="waiting"), name="jobs_in_the_queue"),
            models.Index(
                fields=["lease_until"], condition=models.Q(state__in=["running", "returned"]), name="jobs_under_lease"
            ),
            models.Index(fields=["finished_at"], condition=models.Q(finished_at__isnull=False), name="jobs_finished"),
            models.Index(fields=["state", "created_at"], name="jobs_by_state"),
            models.Index(fields=["created_at"], name="jobs_by_age"),
        ]

    def __str__(self) -> str:
        return f"{self.task} {self.id}"


class Batch(models.Model):
    """New jobs of one task, in one row until somebody asks for one of them; celeriac.jobs.batches."""

    #: What their ids begin with; four digits follow.
    id = models.CharField(primary_key=True, max_length=32, db_collation="C")
    task = models.CharField(max_length=255)
    queue = models.CharField(max_length=200)
    #: As a job's, of the first one.
    message = models.JSONField()
    #: What follows the arguments in the body of each.
    rest = models.TextField()
    #: A line for each: its arguments as JSON, and as text after a tab.
    jobs = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        verbose_name_plural = "batches"

    def __str__(self) -> str:
        return f"{self.task} {self.id}"
