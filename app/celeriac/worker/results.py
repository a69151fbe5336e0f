"""Results in Postgres that wait for Postgres (``CELERY_RESULT_BACKEND=django-db``, the default), and in Redis."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

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
from celeriac.postgres import POSTGRES_AWAY

COLUMNS: tuple[str, ...] = ("task_id", "status", "result", "traceback", "meta", "content_type", "content_encoding")
COLUMNS += ("periodic_task_name", "task_name", "task_args", "task_kwargs", "worker")
#: One statement and one commit for many; django-celery-results needs two to four for each (SELECT, SAVEPOINT, INSERT or
#: UPDATE).
STORE = f"""
INSERT INTO django_celery_results_taskresult ({", ".join(COLUMNS)}, date_created, date_done, date_started)
SELECT *, now(), now(), CASE WHEN status = 'STARTED' THEN now() END
FROM unnest({", ".join(["%s::text[]"] * len(COLUMNS))}) AS new ({", ".join(COLUMNS)})
ON CONFLICT (task_id) DO UPDATE SET
    {", ".join(f"{name} = EXCLUDED.{name}" for name in COLUMNS[1:])},
    date_done = EXCLUDED.date_done,
    date_started = coalesce(EXCLUDED.date_started, django_celery_results_taskresult.date_started)"""  # noqa: S608

#: KEYS: those of results; ARGV: their value, and for how many seconds it is kept (0: for ever), for each.
STORE_IN_REDIS = """
for k = 1, #KEYS do
  local key, value, seconds = KEYS[k], ARGV[2 * k - 1], tonumber(ARGV[2 * k])
  if redis.call('GETRANGE', key, 0, 19) ~= '{"status": "SUCCESS"' then  -- that is never overwritten
    if seconds > 0 then redis.call('SETEX', key, seconds, value) else redis.call('SET', key, value) end
    redis.call('PUBLISH', key, value)
  end
end"""


class DatabaseBackend(StockBackend):
    """django-celery-results' backend, which would run a task and drop its result while Postgres restarts."""

    in_postgres = True

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

    def write(self, rows: list[Any], using: Any = None) -> None:
        """Raises what Postgres raises, and has written none of them then."""
        latest = {row[0]: row for row in rows}.values()  # of a message that was delivered twice
        with connections[using or DEFAULT_DB_ALIAS].cursor() as cursor:
            cursor.execute(STORE, [list(column) for column in zip(*latest, strict=True)])

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


class RedisMixin:
    """For Celery's backend in Redis: one round trip instead of two, and one for the results of a batch."""

    _extended: bool | None = None

    def _store_result(
        self: Any, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        row = self.row(task_id, result, state, traceback, request)
        if self.serializer != "json" or len(row[1]) > self._MAX_STR_VALUE_SIZE:
            return super()._store_result(task_id, result, state, traceback, request, **kwargs)  # type: ignore[misc]
        self.store_rows([row])
        return result

    def row(self: Any, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None) -> tuple:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        expires = self.failure_expires if state == states.FAILURE else self.expires
        return (self.get_key_for_task(task_id), self.encode({**meta, "task_id": task_id}), int(expires or 0))

    def _get_result_meta(
        self: Any, result: Any, state: str, traceback: Any, request: Any, format_date: bool = True, encode: bool = False
    ) -> dict[str, Any]:
        """Celery's, which asks its settings and ``dateutil`` again for each (30 us)."""
        if state != states.SUCCESS or request is None or not format_date or encode or getattr(request, "stamps", None):
            return super()._get_result_meta(result, state, traceback, request, format_date, encode)  # type: ignore[misc]
        if self._extended is None:
            self._extended = bool(self.app.conf.find_value_for_key("extended", "result"))
        meta: dict[str, Any] = {"status": state, "result": result, "traceback": traceback}
        meta["children"] = self.current_task_children(request)
        meta["date_done"] = datetime.now(UTC).astimezone(self.app.timezone).isoformat()
        if request.group:
            meta["group_id"] = request.group
        if request.parent_id:
            meta["parent_id"] = request.parent_id
        if self._extended:
            meta |= {"name": getattr(request, "task", None), "args": request.args, "kwargs": request.kwargs}
            meta |= {"worker": request.hostname, "retries": request.retries}
            meta["queue"] = request.delivery_info.get("routing_key") if request.delivery_info else None
        return meta

    def store_rows(self: Any, rows: list[Any]) -> None:
        """As soon as Redis is there."""
        self.ensure(self.write, (rows,))

    def write(self: Any, rows: list[Any]) -> None:
        """Raises what Redis raises."""
        keys, values = [key for key, _, _ in rows], [each for _, value, seconds in rows for each in (value, seconds)]
        self.client.eval(STORE_IN_REDIS, len(keys), *keys, *values)


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
