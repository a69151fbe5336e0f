"""What an operator does with jobs, in the admin and by ``manage.py jobs``: run again, cancel, look how they are."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from celery import current_app, states
from celery.app.task import Context
from celery.exceptions import TaskRevokedError
from celery.utils.functional import chunks
from django.db import transaction
from django.db.models import Count, Min, Q, QuerySet
from django.utils import timezone
from django_celery_results.backends import DatabaseBackend
from django_celery_results.models import TaskResult
from kombu.utils.json import loads

from celeriac.broker import BROKER_AWAY
from celeriac.jobs import batches
from celeriac.jobs.enqueue import PARK, publish_on_commit
from celeriac.models import Job

#: Jobs in one transaction; each with its message, which may be long.
BATCH = 500
#: Seconds that a worker has to say that it stopped a job.
PATIENCE = 2.0
#: So young is a job of which only Redis knows that it was published; the reconciler writes it down.
NEW = timedelta(seconds=10)

State = Job.State
#: What can be run again, cancelled, or stopped in the middle. One that failed and is cancelled is given up: it goes
#: when finished ones go.
RETRIED, CANCELLED = (State.FAILED, State.CANCELLED), (State.WAITING, State.FAILED)
STOPPED = (State.RUNNING,)

# Of the message, what an attempt has used up starts anew: Celery's count, or the task's max_retries would end it
# at once; and times that have passed. Its mark changes, and the token, so that neither an old delivery nor a
# worker that is still at it counts as this one.
RETRY = """
WITH chosen AS (
    SELECT id FROM celeriac_job WHERE id = ANY(%(ids)s) AND state = ANY(%(states)s) ORDER BY id FOR UPDATE
)
UPDATE celeriac_job AS job SET
    -- One whose effect is committed goes on from there: its body does not run twice.
    state = CASE result WHEN '' THEN 'waiting' ELSE 'returned' END,
    lease_until = CASE result WHEN '' THEN NULL ELSE now() END,
    retries = 0, crashes = 0, token = token + 1, published_at = NULL, finished_at = NULL,
    due_at = greatest(due_at, now()),
    message = jsonb_set(message, '{headers}', message -> 'headers' || jsonb_build_object(
        'retries', 0,
        'celeriac_job', token + 1,
        'eta', CASE WHEN (message #>> '{headers,eta}')::timestamptz > now() THEN message #> '{headers,eta}' END,
        'expires', CASE WHEN (message #>> '{headers,expires}')::timestamptz > now()
            THEN message #> '{headers,expires}' END
    ))
FROM chosen WHERE job.id = chosen.id
RETURNING job.*"""

CANCEL = """
WITH chosen AS (
    SELECT id, state FROM celeriac_job WHERE id = ANY(%(ids)s) AND state = ANY(%(states)s) ORDER BY id FOR UPDATE
)
UPDATE celeriac_job AS job SET state = 'cancelled', finished_at = now(), lease_until = NULL,
    error = CASE chosen.state WHEN 'failed' THEN error ELSE %(reason)s END
FROM chosen WHERE job.id = chosen.id
RETURNING job.*, chosen.state AS was"""


# --- Run again ---------------------------------------------------------------------------------------------------


def retry(ids: Sequence[str]) -> list[Job]:
    """Let those that failed or were cancelled run again, with the ids they have; returns the ones that will.

    Their error stays to be read until they succeed.
    """
    with transaction.atomic():
        jobs = list(Job.objects.raw(RETRY, {"ids": list(ids), "states": list(RETRIED)}))
        forget_results([job.id for job in jobs])
        publish_on_commit(jobs)
    return jobs


def forget_results(ids: Sequence[str]) -> None:
    """Whoever asks for a result is told that it is not there yet, not how the last attempt ended."""
    backend = current_app.backend
    if isinstance(backend, DatabaseBackend):
        TaskResult.objects.filter(task_id__in=ids).delete()
    else:
        for pk in ids:
            transaction.on_commit(partial(backend.forget, pk), robust=True)


# --- Cancel ------------------------------------------------------------------------------------------------------


def cancel(ids: Sequence[str], reason: str, among: Iterable[str] = CANCELLED) -> list[Job]:
    """Cancel those of ``ids`` that are in one of the states ``among``; each says in ``was`` which one.

    The row decides: whatever is delivered of it is dropped, and what a worker that is at it writes at its end, too
    (its effect, if the task is ``atomic``). :func:`stop` ends the work itself.
    """
    batches.unfold_of(ids)
    with transaction.atomic():
        values = {"ids": list(ids), "states": list(among), "reason": reason}
        jobs = list(Job.objects.raw(CANCEL, values))
        revoke_results([job for job in jobs if vars(job)["was"] != State.FAILED], reason)
    return jobs


def stop(jobs: Iterable[Job]) -> list[Job]:
    """Kill the processes that ran these cancelled jobs; returns those of which no worker said that it did.

    Not by Celery's ``revoke``: workers remember that for three hours, and would refuse the job when it is run again.
    """
    running = [job for job in jobs if vars(job).get("was") == State.RUNNING]
    stopped: set[str] = set()
    if running:
        with suppress(*BROKER_AWAY):
            replies = current_app.control.broadcast(
                "stop_jobs",
                arguments={"ids": [job.id for job in running]},
                destination=sorted({job.worker for job in running}),
                reply=True,
                timeout=PATIENCE,
            )
            stopped.update(pk for reply in replies for answer in reply.values() for pk in answer.get("stopped", ()))
    return [job for job in running if job.id not in stopped]


def revoke_results(jobs: Sequence[Job], reason: str) -> None:
    """Whoever waits for a result learns that there will be none."""
    backend = current_app.backend
    if isinstance(backend, DatabaseBackend):
        in_group = [job for job in jobs if job.message["headers"].get("group")]
        store_revoked([job for job in jobs if job not in in_group], reason)
        for job in in_group:  # which may be a chord's part, so that its body is not to be waited for
            revoke_result(job, reason)
    else:
        for job in jobs:
            transaction.on_commit(partial(revoke_result, job, reason), robust=True)


def revoke_result(job: Job, reason: str) -> None:
    request = Context(job.message["headers"], chord=loads(job.body)[2].get("chord"))
    current_app.backend.mark_as_revoked(job.id, reason, request=request)


def store_revoked(jobs: Sequence[Job], reason: str) -> None:
    """What ``mark_as_revoked`` stores, in one statement for all."""
    backend = current_app.backend
    error = backend.prepare_exception(TaskRevokedError(reason), backend.serializer)
    content_type, encoding, result = backend.encode_content(error)
    values = {"status": states.REVOKED, "content_type": content_type, "content_encoding": encoding, "result": result}
    now = timezone.now()
    TaskResult.objects.bulk_create(
        [TaskResult(task_id=job.id, task_name=job.task, date_done=now, **values) for job in jobs],
        update_conflicts=True,
        unique_fields=["task_id"],
        update_fields=[*values, "date_done"],
    )


# --- Many ----------------------------------------------------------------------------------------------------------


def in_batches(jobs: QuerySet[Job], most: int | None = None) -> Iterator[list[str]]:
    """Their ids as they are now: one that fails again meanwhile does not come a second time."""
    batches.unfold_all()
    ids = jobs.values_list("pk", flat=True)[:most]
    return chunks(ids.iterator(chunk_size=BATCH), BATCH)


def refusal(job: Job) -> str:
    """Why it is not run again, or not cancelled."""
    return {
        State.WAITING: "waits already",
        State.RUNNING: "is running",
        State.RETURNED: "has had its effect and is about to end",
        State.SUCCEEDED: "has succeeded",
        State.FAILED: "has failed",
        State.CANCELLED: "is cancelled already",
    }[State(job.state)]


# --- Looking -------------------------------------------------------------------------------------------------------


def words(job: Job) -> str:
    """Its state for people."""
    now = timezone.now()
    if job.state == State.WAITING:
        if job.due_at > now + timedelta(seconds=PARK):
            return "waits for its time"
        return "queued" if job.published_at or job.created_at > now - NEW else "waits for Redis"
    if job.state == State.RUNNING and job.lease_until and job.lease_until < now:
        return "running, no sign of life"
    return {State.RETURNED: "ending", State.SUCCEEDED: "done"}.get(State(job.state), job.state)


def stats() -> dict[str, Any]:
    """Counts and ages, in seconds, of what there is; ``None`` where there is nothing."""
    batches.unfold_all()
    now = timezone.now()
    counted = Job.objects.order_by("task", "state").values_list("task", "state").annotate(Count("pk"))
    tasks: dict[str, dict[str, int]] = {}
    for task, state, count in counted:
        tasks.setdefault(task, dict.fromkeys(State.values, 0))[state] = count
    due = Job.objects.filter(state=State.WAITING, due_at__lte=now)
    held = Job.objects.filter(state__in=[State.RUNNING, State.RETURNED])
    failed = Job.objects.filter(state=State.FAILED, finished_at__gt=now - timedelta(days=1)).aggregate(
        hour=Count("pk", filter=Q(finished_at__gt=now - timedelta(hours=1))), day=Count("pk")
    )
    return {
        "states": {state: sum(counts[state] for counts in tasks.values()) for state in State.values},
        "tasks": tasks,
        "waiting_for_their_time": Job.objects.filter(state=State.WAITING, due_at__gt=now).count(),
        "oldest_waiting_seconds": _age(due, now),
        "oldest_unpublished_seconds": _age(due.filter(published_at=None), now),
        "running_without_sign_of_life": held.filter(lease_until__lt=now).count(),
        "failed_last_hour": failed["hour"],
        "failed_last_day": failed["day"],
    }


def _age(jobs: QuerySet[Job], now: datetime) -> float | None:
    since = jobs.aggregate(since=Min("due_at"))["since"]
    return round((now - since).total_seconds(), 1) if since else None


def duration(seconds: float) -> str:
    """As people say it: ``0.3 s``, ``12 min``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if not hours:
        return f"{minutes} min"
    return f"{hours} h {minutes % 60} min" if not days else f"{days} d {hours % 24} h"
