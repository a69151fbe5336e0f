"""A worker's part: claim a job before it is run, write down its end, and hold the lease in between."""

import json
import logging
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from billiard.exceptions import WorkerLostError
from celery import current_app, states
from celery.app.task import Context
from celery.exceptions import Ignore, Reject, Retry
from django.conf import settings
from django.db import connection, transaction
from kombu.utils.json import dumps, loads

from celeriac.jobs import HEADER, batches
from celeriac.postgres import POSTGRES_AWAY, patiently
from celeriac.worker import running

logger = logging.getLogger(__name__)

#: Seconds after which a job whose worker gives no sign of life may be run by another one; and between two signs.
LEASE, RENEW = 20, 5

CLAIM = """
UPDATE celeriac_job SET
    state = CASE state WHEN 'returned' THEN state ELSE 'running' END,
    token = token + 1, attempts = attempts + (state <> 'returned')::int, worker = %(worker)s,
    started_at = now(), lease_until = now() + %(lease)s * interval '1 second',
    published_at = coalesce(published_at, now())  -- it was: here is its message
WHERE id = %(id)s AND retries <= %(retries)s AND message #> '{headers,celeriac_job}' = %(mark)s::jsonb
    AND (state = 'waiting' OR (state = 'returned' AND (lease_until IS NULL OR lease_until < now())))
RETURNING token, state, result"""

# Many at once, for a batch. What belongs to each is looked up in an object by its id: a join would be quick only while
# Postgres guesses well how many rows there are.
#: Only what no worker died of, because a crash counts for all that its worker has claimed.
CLAIM_MANY = """
UPDATE celeriac_job SET
    state = 'running', token = token + 1, attempts = attempts + 1, worker = %(worker)s,
    started_at = now(), lease_until = now() + %(lease)s * interval '1 second',
    published_at = coalesce(published_at, now())
WHERE id = ANY(%(ids)s) AND state = 'waiting' AND crashes = 0
RETURNING id, token, retries, message #> '{headers,celeriac_job}'"""

#: What was claimed and not begun.
UNCLAIM = """
UPDATE celeriac_job SET state = 'waiting', attempts = attempts - 1, lease_until = NULL
WHERE id = ANY(%(ids)s) AND token = (%(tokens)s::jsonb ->> id)::bigint AND state = 'running'"""

#: A worker died under these: they wait again, or have failed when it was once too often.
CRASH = """
UPDATE celeriac_job SET
    crashes = crashes + 1, lease_until = NULL, published_at = NULL,
    state = CASE WHEN state = 'returned' THEN 'returned' WHEN crashes + 1 >= %(most)s THEN 'failed' ELSE 'waiting' END,
    finished_at = CASE WHEN state = 'running' AND crashes + 1 >= %(most)s THEN now() END,
    error = CASE WHEN state = 'returned' THEN error
        ELSE 'Its worker died, or lost Postgres, while it ran: ' || (crashes + 1) || ' of %(most)s times.' END
WHERE state IN ('running', 'returned') AND """

#: Taken from a worker that stops, in the middle: no fault of the job.
GIVE_BACK = """
UPDATE celeriac_job SET
    lease_until = NULL, published_at = NULL, state = CASE state WHEN 'running' THEN 'waiting' ELSE state END
WHERE state IN ('running', 'returned') AND """

RETURN = """
UPDATE celeriac_job SET state = 'returned', result = %s WHERE id = %s AND token = %s AND state = 'running'"""

SUCCEED = """
UPDATE celeriac_job SET state = 'succeeded', result = %s, finished_at = now(), lease_until = NULL, error = '',
    traceback = ''
WHERE id = %s AND finished_at IS NULL AND (token = %s OR %s IS NULL)"""

SUCCEED_MANY = """
UPDATE celeriac_job SET state = 'succeeded', result = %(results)s::jsonb ->> id, finished_at = now(),
    lease_until = NULL, error = '', traceback = ''
WHERE id = ANY(%(ids)s) AND token = (%(tokens)s::jsonb ->> id)::bigint AND finished_at IS NULL"""

END = """
UPDATE celeriac_job SET state = %(state)s, error = %(error)s, traceback = %(traceback)s, finished_at = now(),
    lease_until = NULL
WHERE id = %(id)s AND finished_at IS NULL AND message #> '{headers,celeriac_job}' = %(mark)s::jsonb
    AND (token = %(token)s OR %(token)s IS NULL AND (  -- of the main process: what it ran itself, or nobody runs
        (worker = %(worker)s AND state IN ('waiting', 'running'))
        OR (state = 'waiting' AND %(state)s = 'cancelled')))"""


@dataclass
class Claim:
    """The right to run a job and to write its end, until somebody else has a later one."""

    id: str
    token: int
    #: What the body returned, when its effect was committed by an attempt that died after that.
    returned: Any = None
    has_returned: bool = False


class LostLeaseError(Exception):
    """Another worker has the job by now; what this one wrote is rolled back."""


def run(task: Any, body: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Run a durable task's body, if the job is there to be run; what ``Task.__call__`` does.

    Raises :class:`celery.exceptions.Ignore` for a delivery that has nothing to do: of a job that ended,
    that another worker is running, or that was sent anew since.
    """
    request = task.request
    token = running.claimed(request.id)
    claim = Claim(request.id, token) if token else claim_job(request)
    if claim is None:
        logger.info("delivery of %s dropped: it has ended, or runs elsewhere", request.id)
        raise Ignore
    request.job = claim
    session: Any = connection.connection
    if task.track_started and not task.ignore_result:
        about = {"pid": os.getpid(), "hostname": request.hostname}
        task.backend.store_result(request.id, about, states.STARTED, request=request)
    if claim.has_returned:
        return claim.returned
    try:
        if not getattr(task, "atomic", False):
            return body(*args, **kwargs)
        with transaction.atomic():
            returned = body(*args, **kwargs)
            write_return(claim, returned)
            return returned
    except Retry as retry:
        if retry.sig is not None:
            retry.sig.apply_async()  # once more: what the body's own transaction wrote of it was rolled back
        raise
    except Ignore:
        succeed(request, None)  # nothing to do is an end, too
        raise
    except LostLeaseError:
        logger.warning("the lease of %s was lost: what it wrote is rolled back", request.id)
        raise Ignore from None
    except POSTGRES_AWAY + (Reject,) as error:
        # Reject: `autoretry_for` could not even ask for its retry.
        if isinstance(error, Reject) and not isinstance(error.reason, POSTGRES_AWAY):
            raise
        if session is not None and not session.closed:  # not Django's: atomic() has connected anew by now
            raise  # the task's own: a deadlock, a statement's timeout
        logger.warning("Postgres went away under %s: it is run again", request.id)
        patiently(crashed)(claim.id, token=claim.token)
        raise Ignore from None


def claim_many(headers: Sequence[dict[str, Any]], worker: str) -> dict[str, int]:
    """Claim the jobs of these messages before they are run one after the other; returns id -> token of those it got."""
    if settings.JOBS_MAX_CRASHES <= 1:  # one that was not even begun would have failed
        return {}
    asked = {each["id"]: each for each in headers}
    claimed = _claim_many(list(asked), worker)
    if missing := asked.keys() - {job_id for job_id, *_ in claimed}:
        batches.unfold_of(missing)
        claimed += _claim_many(list(missing), worker)
    tokens: dict[str, int] = {}
    of_others: dict[str, int] = {}
    for job_id, token, retries, mark in claimed:
        message = asked[job_id]
        right = retries <= (message.get("retries") or 0) and loads(mark) == message[HEADER]
        (tokens if right else of_others)[job_id] = token
    unclaim(of_others)  # sent anew since: a later message is the one that may
    return tokens


def _claim_many(ids: list[str], worker: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(CLAIM_MANY, {"worker": worker, "lease": LEASE, "ids": ids})
        return cursor.fetchall()


def unclaim(tokens: dict[str, int]) -> None:
    """What ``claim_many`` claimed, and nobody has begun, waits again."""
    if tokens:
        with connection.cursor() as cursor:
            cursor.execute(UNCLAIM, {"ids": list(tokens), "tokens": dumps(tokens)})


def succeed_many(ends: Sequence[tuple[str, int, str]]) -> None:
    """(id, token, result) of jobs that have ended well; in the transaction that stores their results."""
    tokens, results = ({end[0]: end[column] for end in ends} for column in (1, 2))
    with connection.cursor() as cursor:
        values = {"ids": list(tokens), "tokens": dumps(tokens), "results": dumps(results)}
        cursor.execute(SUCCEED_MANY, values)


@patiently
def claim_job(request: Any) -> Claim | None:
    """The claim; none for what has ended or runs elsewhere. Of a worker that is dead, its crash is counted first."""
    claim = _claim(request)
    if claim is None:
        batches.unfold_of([request.id])
        expired(request.id)
        claim = _claim(request)
    return claim


def _claim(request: Any) -> Claim | None:
    with connection.cursor() as cursor:
        values = {"id": request.id, "worker": request.hostname or socket.gethostname(), "lease": LEASE}
        cursor.execute(CLAIM, {**values, "retries": request.retries or 0, "mark": dumps(mark(request))})
        row = cursor.fetchone()
    if not row:
        return None
    token, state, result = row
    has_returned = state == "returned"
    return Claim(request.id, token, loads(result) if has_returned else None, has_returned)


def crashed(job_id: str, token: int | None = None, worker: str | None = None) -> int:
    """The process that ran it died; so says it itself, by its token, or its main process, by their name."""
    return _crash("id = %(of)s AND (token = %(token)s OR worker = %(worker)s)", job_id, token, worker)


def crashed_worker(worker: str) -> int:
    """The worker of this name was killed: a new one has just started under it."""
    return _crash("worker = %(of)s", worker)


def expired(job_id: str = "") -> int:
    """Workers that gave no sign of life for the time of a lease; those that had this job, or any."""
    return _crash("lease_until < now() AND %(of)s IN (id, '')", job_id)


def _crash(which: str, of: str = "", token: int | None = None, worker: str | None = None) -> int:
    """Returns how many jobs wait again, or have failed."""
    with connection.cursor() as cursor:
        values = {"of": of, "token": token, "worker": worker, "most": settings.JOBS_MAX_CRASHES}
        cursor.execute(f"{CRASH}{which} RETURNING id, state, message", values)
        jobs = cursor.fetchall()
    for job_id, state, message in jobs:
        if state == "failed":  # a chord, an errback or somebody with its id waits for a result, too
            request = Context(json.loads(message)["headers"], delivery_info={})
            error = WorkerLostError("Its worker died every time.")
            current_app.backend.mark_as_failure(job_id, error, request=request)
    return len(jobs)


def put_off(job_id: str, seconds: int = 30) -> None:
    """Try again later."""
    batches.unfold_of([job_id])
    with connection.cursor() as cursor:
        cursor.execute(
            "UPDATE celeriac_job SET published_at = NULL, token = token + 1, due_at = now() + %s * interval '1 second' "
            "WHERE id = %s AND state = 'waiting'",
            [seconds, job_id],
        )


def give_back(worker: str) -> None:
    """What this worker is running, or was, waits for another one."""
    with connection.cursor() as cursor:
        cursor.execute(GIVE_BACK + "worker = %s", [worker])


def write_return(claim: Claim, returned: Any) -> None:
    """In the transaction of the body: its effect and this row are committed together, or neither is."""
    with connection.cursor() as cursor:
        cursor.execute(RETURN, [dumps(returned), claim.id, claim.token])
        if not cursor.rowcount:
            raise LostLeaseError


def is_job(request: Any) -> bool:
    """Whether a task's request came by the message of a durable job."""
    return bool(mark(request))


def mark(request: Any) -> Any:
    """What tells the messages of a job that was run again by hand from the ones before."""
    return getattr(request, HEADER, None) or (getattr(request, "headers", None) or {}).get(HEADER)


def succeed(request: Any, result: Any) -> None:
    """The end of a job whose result is stored, and whose successors are queued."""
    claim = getattr(request, "job", None)
    if claim and running.may_end(request.id):
        running.keep("job", (request.id, claim.token, dumps(result)))
    else:
        write_success(request, claim, result)


@patiently
def write_success(request: Any, claim: Claim | None, result: Any) -> None:
    token = claim.token if claim else None  # none: in this worker the task is not durable (any more)
    if not claim:
        batches.unfold_of([request.id])
    with connection.cursor() as cursor:
        cursor.execute(SUCCEED, [dumps(result), request.id, token, token])


@patiently
def end(request: Any, state: str, error: BaseException | str, traceback: Any = "") -> None:
    """The end of a job that failed, was revoked, or expired."""
    claim = getattr(request, "job", None)
    token = claim.token if claim else None  # the main process, which ends what a child cannot, has no claim
    if not claim:
        batches.unfold_of([request.id])
    # One that expired or was revoked may be running here by another delivery.
    own = request.hostname if state == "failed" or error == "terminated" else ""
    words = f"{type(error).__name__}: {error}" if isinstance(error, BaseException) else error
    with connection.cursor() as cursor:
        values = {"id": request.id, "token": token, "worker": own, "mark": dumps(mark(request))}
        cursor.execute(END, {**values, "state": state, "error": words, "traceback": str(traceback or "")})
