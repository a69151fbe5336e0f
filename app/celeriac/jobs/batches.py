"""Many new jobs of one task are one row until somebody asks for one of them.

Their messages are alike but for ids and arguments, so ``delay_many`` writes that once, and a line for each job: to
write a row with its indexes for each takes Postgres longer than all else together. The one row is in the caller's
transaction, and keeps the promise. It is unfolded into jobs, whole and once, by whoever comes first: the worker that
has a message of it, the reconciler, within seconds, or an operator who looks.

The ids of a batch differ in their last four digits; what comes before is the batch's own id.
"""

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from celery.app.amqp import task_message
from django.db import connection, transaction
from kombu.utils.json import dumps
from structlog.contextvars import get_contextvars

from celeriac import send
from celeriac.jobs import HEADER, enqueue, receipts
from celeriac.send import CHUNK, ENDS, OWN, Sender, as_json, new_id
from celeriac.worker import logs

INSERT = """
INSERT INTO celeriac_batch (id, task, queue, message, rest, jobs, created_at) VALUES """
VALUES = "(%s, %s, %s, %s, %s, %s, now())"

# Each job's message is the first one's, with its own id and arguments in their places.
UNFOLD = """
WITH batch AS (DELETE FROM celeriac_batch WHERE id = %(id)s RETURNING *)
INSERT INTO celeriac_job (id, task, queue, args, message, body, state, retries, attempts, crashes, token,
    created_at, due_at, published_at, worker, result, error, traceback)
SELECT batch.id || one.ending, task, queue, rtrim(btrim(one.repr, '()[]'), ','),
    replace(replace(message::text, batch.id || '0000', batch.id || one.ending),
        to_json(batch.id)::text, to_json(one.repr)::text)::jsonb,
    '[' || one.args || rest, 'waiting', 0, 0, 0, 0,
    created_at, created_at, CASE WHEN %(published)s THEN now() END, '', '', '', ''
FROM batch, LATERAL (
    SELECT lpad(to_hex(number - 1), 4, '0') AS ending, split_part(line, E'\\t', 1) AS args,
        split_part(line, E'\\t', 2) AS repr
    FROM string_to_table(jobs, E'\\n') WITH ORDINALITY AS lines (line, number)
) AS one
ON CONFLICT (id) DO NOTHING"""  # somebody sent another one with this id


# --- Fold ------------------------------------------------------------------------------------------------------


@dataclass
class Folded:
    """New jobs of one task: a row of celeriac_batch, and what it takes to publish them."""

    sender: Sender
    #: What their ids begin with.
    id: str
    #: Of the first one; its ``argsrepr`` is the batch's id.
    message: task_message
    #: Of each: arguments as JSON, and as text.
    args: list[str]
    reprs: list[str]
    #: What follows the arguments in each message's body.
    rest: str

    def row(self) -> tuple[Any, ...]:
        headers, properties, *_ = self.message
        message = {"headers": headers, "properties": properties, "options": {"queue": self.sender.queue.name}}
        lines = "\n".join(map("\t".join, zip(self.args, self.reprs, strict=True)))
        return (self.id, headers["task"], self.sender.queue.name, dumps(message), self.rest, lines)

    def ids(self) -> list[str]:
        return [self.id + end for end in ENDS[: len(self.args)]]

    def encoded(self) -> list[bytes]:
        """What a list in Redis holds, of each."""
        headers, properties, *_ = self.message
        first = self.message._replace(headers={**headers}, properties={**properties})
        whole = send.encode(self.sender.app, self.sender.queue, first, "").decode()
        tag = json.loads(whole)["properties"]["delivery_tag"]
        ends = ENDS[: len(self.args)]
        new_tag = new_id()[:OWN]
        # What stands in the first one's message -> what stands there in each.
        columns = {
            f"{self.id}0000": [f"{self.id}{end}".encode() for end in ends],
            f'"{self.id}"': [orjson.dumps(text) for text in self.reprs],
            '{"body": ""': [b'{"body": "%b"' % b64encode(f"[{args}{self.rest}".encode()) for args in self.args],
            tag: [f"{new_tag}{end}".encode() for end in ends],
        }
        parts = re.split(f"({'|'.join(map(re.escape, columns))})", whole.replace("%", "%%"))
        template = "%b".join(parts[::2]).encode()
        return [template % row for row in zip(*(columns[place] for place in parts[1::2]), strict=True)]


def fold(sender: Sender, arguments: Sequence[tuple[Any, ...]]) -> Folded | None:
    """As one row; none of what cannot be one, because its messages are not alike, or would not fail alone.

    Raises what ``sender.message`` raises for arguments that the task does not take.
    """
    batch = new_id()[:OWN]
    first = sender.message(arguments[0], {}, batch + ENDS[0])
    for each in arguments[1:]:
        sender.check(each, {})
    if not logs.listens_alone():  # who else listens may change any of the messages
        return None
    try:
        args, reprs = map(list, zip(*sender.all_written(arguments), strict=True))
    except Exception:  # Celery's own way raises Celery's own error
        return None
    if not "".join(reprs).isprintable() or any("__type__" in each for each in args):  # what kombu may fail to read
        return None
    headers = {HEADER: True, **first.headers, "argsrepr": batch}
    rest = as_json(first.body).removeprefix(f"[{as_json(arguments[0])}")
    return Folded(sender, batch, first._replace(headers=headers), args, reprs, rest)


def record_new(sender: Sender, arguments: Sequence[tuple[Any, ...]]) -> list[str] | None:
    """Write new jobs of the task, in the caller's transaction, and publish them when it is committed; their ids.

    None, and nothing is written, of what has to be written job by job.
    """
    batches: list[Folded] = []
    for start in range(0, len(arguments), CHUNK):
        batch = fold(sender, arguments[start : start + CHUNK])
        if batch is None:
            return None
        batches.append(batch)
    if batches:
        insert(batches)
        transaction.on_commit(lambda: enqueue.publish_soon(partial(publish, batches), len(arguments)), robust=True)
    return [job_id for batch in batches for job_id in batch.ids()]


def insert(batches: Sequence[Folded]) -> None:
    with connection.cursor() as cursor:
        values = [value for batch in batches for value in batch.row()]
        cursor.execute(INSERT + ", ".join([VALUES] * len(batches)), values)


def receipt_of(batch: str) -> str:
    """A name that no job's id is."""
    return f"batch {batch}"


def publish(batches: Iterable[Folded]) -> None:
    """Each in one round trip. Raises one of ``BROKER_AWAY``."""
    for batch in batches:
        app, task, queue = batch.sender.app, batch.sender.task, batch.sender.queue
        send.push(app, queue, batch.encoded(), shown=(), also=receipts.commands([receipt_of(batch.id)]))
        logs.say_sent(queue.name, [(task.name, job_id) for job_id in batch.ids()], get_contextvars())


# --- Unfold ------------------------------------------------------------------------------------------------------


def unfold(batches: Iterable[str], published: bool = False) -> None:
    """Make jobs of these batches; one that somebody else unfolds is waited for.

    One by one, and in their order, so that two who unfold the same ones do not wait for each other. That they were
    ``published`` is known to who has just seen their receipt, and to nobody else: a worker that has a message of a
    batch does not know what became of the others.
    """
    for batch in sorted(set(batches)):
        with connection.cursor() as cursor:
            cursor.execute(UNFOLD, {"id": batch, "published": published})


def batch_of(job_id: str) -> str:
    """The batch that it is of, if it is of one."""
    return job_id[:OWN] if len(job_id) == OWN + len(ENDS[0]) else ""


def unfold_of(jobs: Iterable[str]) -> None:
    """Make jobs of the batches that these are of, if there are any."""
    unfold(set(map(batch_of, jobs)) - {""})


def unfold_all(most: int | None = None) -> None:
    """For somebody who looks at jobs."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT id FROM celeriac_batch ORDER BY created_at LIMIT %s", [most])
        found = [batch for (batch,) in cursor.fetchall()]
    unfold(found)
