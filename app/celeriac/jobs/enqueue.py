"""Writes a durable task's message to its row, in the caller's transaction, and publishes it after the commit."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from itertools import filterfalse
from typing import Any

import orjson
from celery import Celery, current_app, current_task
from celery.app import amqp
from celery.app.amqp import task_message
from django.db import connection, transaction
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from kombu.utils.json import dumps, loads

from celeriac import broker, send
from celeriac.broker import BROKER_AWAY, Publisher
from celeriac.jobs import HEADER, is_durable, receipts
from celeriac.send import CHUNK, is_direct

logger = logging.getLogger(__name__)

#: A job that is due later than this many seconds from now stays in Postgres until then, and out of Redis, where
#: it would wait in a worker's memory and come back at every visibility timeout.
PARK = 20.0
#: Seconds for which nothing is sent to a Redis that did not answer: the caller does not wait for it again.
REST = 5.0

INSERT = """
INSERT INTO celeriac_job (id, task, queue, args, message, body, state, retries, attempts, crashes, token,
    created_at, due_at, worker, result, error, traceback)
SELECT id, task, queue, args, message, body, 'waiting', retries, 0, 0, token, now(), due_at, '', '', '', ''
FROM {}
ON CONFLICT (id) DO UPDATE SET  -- its next attempt, asked for by the one that runs
    message = EXCLUDED.message, body = EXCLUDED.body, queue = EXCLUDED.queue, retries = EXCLUDED.retries,
    due_at = EXCLUDED.due_at, state = 'waiting', published_at = NULL, lease_until = NULL,
    token = celeriac_job.token + 1
WHERE EXCLUDED.retries > celeriac_job.retries AND EXCLUDED.token = celeriac_job.token
    AND celeriac_job.state IN ('waiting', 'running')  -- once it has returned, its effect is there
RETURNING id"""

#: One, which Postgres plans and reads in half the time.
INSERT_ONE = INSERT.format("""(
    SELECT %(id)s, %(task)s, %(queue)s, %(args)s, %(message)s::jsonb, %(body)s, %(retries)s, %(due_at)s, %(token)s
) AS new (id, task, queue, args, message, body, retries, due_at, token)""")

#: Many, as one text: psycopg takes longer for arrays of texts than Postgres for all the rest.
INSERT_MANY = INSERT.format("""json_to_recordset(%s::json) AS new (id text, task text, queue text, args text,
    message jsonb, body text, retries int, due_at timestamptz, token bigint)""")

#: That it is not on disk yet when a server dies costs a delivery more, which is dropped; to wait for it costs 1 ms.
PUBLISHED = """
UPDATE celeriac_job SET published_at = now()
FROM (SELECT set_config('synchronous_commit', 'off', true) OFFSET 0) AS quickly
WHERE id = ANY(%s) AND state IN ('waiting', 'returned')"""

FAIL = """
UPDATE celeriac_job SET state = 'failed', error = %s, finished_at = now() WHERE id = %s AND finished_at IS NULL"""


class AMQP(amqp.AMQP):
    """Celery's maker of messages; those of durable tasks go through Postgres."""

    @cached_property
    def publish_task_message(self) -> Callable[..., Any]:
        """Celery's own: to Redis, durable or not."""
        return super()._create_task_sender()

    def _create_task_sender(self) -> Callable[..., Any]:
        def send_task_message(producer: Any, name: str, message: task_message, **options: Any) -> Any:
            if not is_durable(self.app, name):
                return self.publish_task_message(producer, name, message, **options)
            return record([job_of(self.app, name, message, options)])

        return send_task_message


# --- The row -------------------------------------------------------------------------------------------------


@dataclass
class Job:
    """The columns of :class:`celeriac.models.Job` that are written when it is sent."""

    id: str
    task: str
    queue: str
    args: str
    message: dict[str, Any]
    body: str
    retries: int
    due_at: datetime
    #: Of the claim that asks for the next attempt.
    token: int


#: Jobs that ``delay_many`` gathers, to write them in one statement.
gathering: ContextVar[list[Job] | None] = ContextVar("gathering", default=None)


def job_of(app: Celery, name: str, message: task_message, options: dict[str, Any]) -> Job:
    """The row of a message, as ``apply_async`` would have sent it."""
    headers, properties, body, _ = message
    headers = {HEADER: True, **headers, **(options.pop("headers", None) or {})}
    headers |= {name: storable(headers[name]) for name in ("argsrepr", "kwargsrepr") if name in headers}
    queue = options.pop("queue", None)
    queue = getattr(queue, "name", queue) or (None if options.get("exchange") else app.conf.task_default_queue)
    if queue is not None:
        app.amqp.queues[queue]  # an unknown one is refused here, not when nobody is there to be told
    kept = {key: options[key] for key in ("exchange", "routing_key", "priority", "delivery_mode") if key in options}
    kept = {key: getattr(value, "name", value) for key, value in kept.items() if value is not None}
    eta = parse_datetime(headers["eta"]) if headers.get("eta") else None
    return Job(
        id=headers["id"],
        task=name,
        queue=queue or kept.get("routing_key", ""),
        args=arguments(headers),
        message={"headers": headers, "properties": properties, "options": {**kept, "queue": queue}},
        body=dumps(body),
        retries=headers.get("retries") or 0,
        due_at=eta or timezone.now(),
        token=asking(headers["id"]),
    )


def storable(text: str) -> str:
    """Postgres's texts have no NUL, and no halves of characters."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def asking(job_id: str) -> int:
    """The token of the task that runs here, if this is its own next attempt: one that lost its lease may not ask."""
    claim = getattr(current_task.request, "job", None) if current_task else None
    return claim.token if claim and claim.id == job_id else 0


def arguments(headers: dict[str, Any]) -> str:
    """The arguments as text, as in a call."""
    args = headers.get("argsrepr", "").strip("()[]").removesuffix(",")
    kwargs = headers.get("kwargsrepr", "")
    return args + (f", **{kwargs}" if kwargs != "{}" else "") if args else (kwargs if kwargs != "{}" else "")


def record(jobs: list[Job]) -> None:
    """Write the rows; publish them when the transaction that they are part of is committed."""
    if (gathered := gathering.get()) is not None:
        gathered.extend(jobs)
        return
    new = insert(jobs)
    # One that is there already (the next step of a chain whose task was run a second time) is left alone.
    publish_on_commit(job for job in jobs if job.id in new)


def publish_on_commit(jobs: Iterable[Any]) -> None:
    """Publish those of these rows that are due, when the transaction is committed."""
    horizon = timezone.now() + timedelta(seconds=PARK)
    if due := [job for job in jobs if job.due_at <= horizon]:
        transaction.on_commit(lambda: publish_soon(lambda: publish_first(due), len(due)), robust=True)


def insert(jobs: Sequence[Job]) -> set[str]:
    rows = [{**vars(job), "message": dumps(job.message)} for job in jobs]
    with connection.cursor() as cursor:
        if len(rows) == 1:
            cursor.execute(INSERT_ONE, rows[0])
        else:
            texts = [{**row, "message": orjson.Fragment(row["message"])} for row in rows]
            cursor.execute(INSERT_MANY, [orjson.dumps(texts).decode()])
        return {pk for (pk,) in cursor.fetchall()}


@contextmanager
def together() -> Iterator[None]:
    """Durable tasks that are sent in this block are one statement and one round trip when it ends."""
    gathered: list[Job] = []
    token = gathering.set(gathered)
    try:
        yield
    finally:
        gathering.reset(token)
    for start in range(0, len(gathered), 5000):
        record(gathered[start : start + 5000])


# --- To Redis --------------------------------------------------------------------------------------------------

#: Until when Redis is left alone, on the monotonic clock; for all threads.
_resting_until = 0.0


def publish_soon(give: Callable[[], object], count: int) -> None:
    """Give so many jobs to Redis now, if it is there; the reconciler does it else."""
    global _resting_until
    if time.monotonic() < _resting_until:
        return
    try:
        give()
    except BROKER_AWAY as error:
        _resting_until = time.monotonic() + REST
        logger.warning("%d jobs are kept until Redis is back: %s", count, error)


def publish(jobs: Iterable[Any]) -> int:
    """Give the messages of these rows to Redis and note when. Raises one of ``BROKER_AWAY``; then nothing is noted."""
    alike, others = sorted_out(jobs)
    sent = send_alike(alike) + send_others(others)
    note(sent)
    return len(sent)


def publish_first(jobs: Iterable[Any]) -> None:
    """The same, but that Redis notes those it has never had (celeriac.jobs.receipts)."""
    jobs = list(jobs)
    alike, others = sorted_out(filter(receipts.is_for, jobs))
    send_alike(alike, receipt=True)
    note(send_others(others))
    publish(filterfalse(receipts.is_for, jobs))


def note(ids: list[str]) -> None:
    """That these were published."""
    if ids:
        with connection.cursor() as cursor:
            cursor.execute(PUBLISHED, [ids])


def sorted_out(jobs: Iterable[Any]) -> tuple[dict[str, list[Any]], list[Any]]:
    """Those without options, by their queue; and the others."""
    alike: dict[str, list[Any]] = {}
    others: list[Any] = []
    for job in jobs:
        options = options_of(job)
        direct = options.keys() == {"queue"} and is_direct(current_app.amqp.queues.get(options["queue"]))
        (alike.setdefault(options["queue"], []) if direct else others).append(job)
    return alike, others


def send_alike(by_queue: dict[str, list[Any]], receipt: bool = False) -> list[str]:
    """Jobs whose messages have no options; returns the ids of those that were sent."""
    app = current_app._get_current_object()
    sent: list[str] = []
    for name, jobs in by_queue.items():
        for start in range(0, len(jobs), CHUNK):
            messages = readable(jobs[start : start + CHUNK])
            if messages:
                also = receipts.commands(messages) if receipt else ()
                send.publish(app, app.amqp.queues[name], list(messages.values()), False, also)
            sent += messages
    return sent


def readable(jobs: list[Any]) -> dict[str, tuple[task_message, str]]:
    """Id -> message and body of these jobs; one that cannot be read, and never will be, has failed."""
    messages = {}
    for job in jobs:
        try:
            messages[job.id] = (message_of(job), job.body)
        except Exception as error:
            fail(job, error)
    return messages


def send_others(jobs: list[Any]) -> list[str]:
    sent = []
    if jobs:
        with publisher().batch() as producer:
            for job in jobs:
                try:
                    send_one(producer, job)
                    sent.append(job.id)
                except BROKER_AWAY:
                    raise
                except Exception as error:  # of this one message: its queue is gone, say
                    fail(job, error)
    return sent


def message_of(job: Any) -> task_message:
    headers, properties = dict(job.message["headers"]), dict(job.message["properties"])
    return task_message(headers=headers, properties=properties, body=tuple(loads(job.body)), sent_event=None)


def send_one(producer: Any, job: Any) -> None:
    """Put one job's message into the producer's batch."""
    message = message_of(job)
    current_app.amqp.publish_task_message(producer, job.task, message, retry=False, **options_of(job))


def options_of(job: Any) -> dict[str, Any]:
    return {name: value for name, value in job.message["options"].items() if value is not None}


def fail(job: Any, error: Exception) -> None:
    logger.error("the job %s cannot be sent: %s", job.id, error)
    with connection.cursor() as cursor:
        cursor.execute(FAIL, [f"{type(error).__name__}: {error}", job.id])


def publisher() -> Publisher:
    return broker.publisher(current_app._get_current_object())
