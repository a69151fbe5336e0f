"""Results in Postgres that wait for Postgres: ``CELERY_RESULT_BACKEND=django-db``, the default."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import orjson
from celery import states
from celery.canvas import maybe_signature
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.db.models import BooleanField, QuerySet
from django.db.models.expressions import RawSQL
from django_celery_results.backends import DatabaseBackend as StockBackend
from django_celery_results.backends.database import trigger_callback
from django_celery_results.models import ChordCounter

from celeriac.cleanup import delete_in_batches, expired_before
from celeriac.health.worker import heartbeat
from celeriac.postgres import POSTGRES_AWAY, not_waiting_for_locks

COLUMNS: tuple[str, ...] = ("task_id", "status", "result", "traceback", "meta", "content_type", "content_encoding")
COLUMNS += ("periodic_task_name", "task_name", "task_args", "task_kwargs", "worker")
#: One statement and one commit for many; django-celery-results needs two to four for each (SELECT, SAVEPOINT, INSERT or
#: UPDATE).
STORE = f"""
INSERT INTO django_celery_results_taskresult ({", ".join(COLUMNS)}, date_created, date_done, date_started)
SELECT *, now(), now(), CASE WHEN status = 'STARTED' THEN now() END
FROM json_to_recordset(%s::json) AS new ({", ".join(f"{name} text" for name in COLUMNS)})
ON CONFLICT (task_id) DO UPDATE SET
    {", ".join(f"{name} = EXCLUDED.{name}" for name in COLUMNS[1:])},
    date_done = EXCLUDED.date_done,
    date_started = coalesce(EXCLUDED.date_started, django_celery_results_taskresult.date_started)
WHERE NOT (EXCLUDED.status = 'RETRY' AND django_celery_results_taskresult.status = 'SUCCESS')"""  # noqa: S608
# That: the next attempt may have ended before this one has said that there is to be one.
#: The same, of a task that began so many seconds ago, and may have said more since.
STORE_STARTED = f"{STORE} AND django_celery_results_taskresult.date_done < now() - %s * interval '1 second'"


class DatabaseBackend(StockBackend):
    """django-celery-results' backend, which would run a task and drop its result while Postgres restarts."""

    in_postgres = True
    _extended: bool | None = None

    def _store_result(
        self, task_id: str, result: Any, status: str, traceback: Any = None, request: Any = None, using: Any = None
    ) -> Any:
        """The same row as stock's. Returns the encoded result, as stock does."""
        row = self.row(task_id, result, status, traceback, request)
        self.write([row], using)
        return row[2]

    def row(self, task_id: str, result: Any, status: str, traceback: Any = None, request: Any = None) -> tuple:
        content_type, content_encoding, encoded = self.encode_content(result)
        meta = {**self._get_meta_from_request(request), "children": self.current_task_children(request)}
        more = self._get_extended_properties(request, traceback)
        row = (task_id, status, encoded, traceback, self.encode_content(meta)[2], content_type, content_encoding)
        return (*row, *(more.get(name) for name in COLUMNS[7:]))

    def _get_extended_properties(self, request: Any, traceback: Any) -> dict[str, Any]:
        """The same as stock's, which looks for the setting each time (8 us)."""
        if self._extended is None:
            self._extended = bool(self.app.conf.find_value_for_key("extended", "result"))
        args, kwargs = getattr(request, "argsrepr", None), getattr(request, "kwargsrepr", None)
        if not self._extended or args is None or kwargs is None:
            return super()._get_extended_properties(request, traceback)
        return {
            "periodic_task_name": getattr(request, "periodic_task_name", None),
            "task_name": getattr(request, "task", None),
            "task_args": self.encode_content(args)[2],
            "task_kwargs": self.encode_content(kwargs)[2],
            "traceback": traceback,
            "worker": getattr(request, "hostname", None),
        }

    def write(self, rows: list[Any], using: Any = None) -> None:
        """Raises what Postgres raises, and has written none of them then."""
        latest = {row[0]: row for row in rows}.values()  # of a message that was delivered twice
        with connections[using or DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute(STORE, [as_json(latest)])

    def store_started(self, task_id: str, about: Any, request: Any, seconds: float) -> None:
        """That a task runs, unless it has said more since it began, ``seconds`` ago."""
        row = self.row(task_id, about, states.STARTED, None, request)
        # The task may have said more in a transaction that is open, and this statement may arrive late.
        with not_waiting_for_locks(), connection.cursor() as cursor:
            cursor.execute(STORE_STARTED, [as_json([row]), seconds + 5])

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether storing can be tried again: always, when it was the connection that failed."""
        if not isinstance(exc, POSTGRES_AWAY):
            return False
        connection.close()
        heartbeat.beat()  # the main process stores results, too, for children that died: waiting is being alive
        return True

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Send a chord's body when every part has ended, which their results tell.

        Stock counts deliveries: a part that is delivered twice counts twice, and the body runs too early or never.
        A durable body is written in the transaction that ends the counting, so that it is neither lost nor doubled.
        """
        if not request.group:
            return
        with transaction.atomic():
            chord = ChordCounter.objects.select_for_update().filter(group_id=request.group).first()
            if chord is None:  # its body is sent
                return
            parts = set(leaves(json.loads(chord.sub_tasks)))
            ended = self.TaskModel.objects.filter(task_id__in=parts, status__in=states.READY_STATES)
            if ended.count() == len(parts):
                chord.delete()
                body = maybe_signature(request.chord, app=self.app)
                trigger_callback(app=self.app, callback=body, group_result=chord.group_result(app=self.app))

    def cleanup(self) -> None:
        """Delete what has expired, in batches; stock does it in one transaction, and keeps the counters of chords."""
        if before := expired_before(self.expires):
            delete_in_batches(dead_chords(before))  # known by their results, so before these
            delete_in_batches(self.TaskModel.objects.filter(date_done__lt=before))
            delete_in_batches(self.GroupModel.objects.filter(date_done__lt=before))


def as_json(rows: Iterable[tuple]) -> str:
    return orjson.dumps([dict(zip(COLUMNS, row, strict=True)) for row in rows]).decode()


def leaves(results: list[Any]) -> Iterator[str]:
    """The ids of the tasks in a group's results, ``((id, parent), children)``; a group has no end of its own."""
    for (task_id, _parent), children in results:
        yield from leaves(children) if children else [task_id]


def dead_chords(before: datetime) -> QuerySet:
    """Counters of chords that can never be complete, because the result of a part has expired.

    A counter has no date, and one without any result may belong to a chord that still waits in its queue.
    """
    expired_part = RawSQL(
        """EXISTS (
            SELECT FROM jsonb_array_elements(django_celery_results_chordcounter.sub_tasks::jsonb) AS part
            JOIN django_celery_results_taskresult AS result ON result.task_id = part -> 0 ->> 0
            WHERE result.date_done < %s AND result.status = ANY(%s)
        )""",
        [before, list(states.READY_STATES)],
        output_field=BooleanField(),
    )
    return ChordCounter.objects.filter(expired_part)
