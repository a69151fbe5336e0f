"""The class of the Celery app: its messages, tasks and results know of durable jobs."""

import logging
from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import Any

from celery import Celery as StockCelery
from celery import current_app, states
from celery.backends.base import Backend
from celery.backends.redis import RedisBackend
from celery.result import AsyncResult
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import transaction
from redis.exceptions import RedisError
from vine import promise

from celeriac.jobs import execution
from celeriac.postgres import REFUSED, not_waiting_for_locks, patiently
from celeriac.send import as_json
from celeriac.tracking import PROGRESS
from celeriac.worker import running
from celeriac.worker.redis_results import RedisMixin

logger = logging.getLogger(__name__)

#: What storing results raises when its server is away; and BlockingIOError, of a lock, is an OSError.
RESULTS_AWAY: tuple[type[Exception], ...] = (DatabaseError, RedisError, OSError)


def this_backend() -> Any:
    return current_app.backend


class JobsMixin:
    """For any result backend: when a task's end is stored, its job has ended."""

    def store_result(
        self, task_id: str, result: Any, state: str, *args: Any, request: Any = None, **kwargs: Any
    ) -> Any:
        """Not that a job is started while it is not claimed: its delivery may be dropped, and its result be there."""
        if state == states.STARTED and execution.is_job(request) and not getattr(request, "job", None):
            return None
        if running.may_keep(self, task_id, state):
            if state == states.SUCCESS:
                row = self.row(task_id, self.encode_result(result, state), state, None, request)  # type: ignore[attr-defined]
                running.keep("row", row)
            return result
        # A task that its hard time limit ends reports on for the moment until it is killed.
        if state == PROGRESS and self.get_task_meta(task_id, cache=False)["status"] in states.READY_STATES:  # type: ignore[attr-defined]
            return None
        return super().store_result(task_id, result, state, *args, request=request, **kwargs)  # type: ignore[misc]

    def __reduce__(self, *args: Any) -> Any:
        """A result that is pickled, in a cache say, has the backend of the process that reads it."""
        return this_backend, ()

    def _encode(self, data: Any) -> tuple[str, str, Any]:
        """Celery's; by the way that sending has, in half the time (5 us, four times for a row in Postgres)."""
        if self.serializer != "json":  # type: ignore[attr-defined]
            return super()._encode(data)  # type: ignore[misc]
        return "application/json", "utf-8", as_json(data)

    def store_kept(self, kept: Sequence[tuple[str, Any]], patient: bool = False) -> None:
        """Store what a batch kept: results ("row") and ends of durable jobs ("job").

        Raises what the server of one of them raises when it is away, unless it is to be ``patient``.
        """
        try:
            self.store_together(kept, patient)
        except REFUSED as error:  # of one of them: an id longer than its column, say
            if len(kept) == 1:
                logger.critical("cannot be stored: %.500r (%s)", kept[0], error)
                return
            for each in kept:
                self.store_kept([each], patient)

    def store_together(self, kept: Sequence[tuple[str, Any]], patient: bool) -> None:
        rows, jobs = ([what for kind, what in kept if kind == wanted] for wanted in ("row", "job"))
        if rows and not getattr(self, "in_postgres", False):
            (self.store_rows if patient else self.write)(rows)  # type: ignore[attr-defined]
            rows = []
        if rows or jobs:
            store = partial(self.store_in_postgres, rows, jobs)
            patiently(partial(store, transaction.atomic))() if patient else store(not_waiting_for_locks)

    def store_in_postgres(self, rows: list[Any], jobs: list[tuple[str, int, str]], block: Callable[[], Any]) -> None:
        with block():
            if rows:
                self.write(rows)  # type: ignore[attr-defined]
            if jobs:
                execution.succeed_many(jobs)

    @property
    def hears_of_sending(self) -> bool:
        """Not of a Redis that may be away: whoever waits for a result subscribes to it then."""
        hears = super().on_task_call.__func__ is not Backend.on_task_call  # type: ignore[misc]
        return hears and not isinstance(self, RedisBackend)

    def on_task_call(self, producer: Any, task_id: str) -> None:
        if self.hears_of_sending:
            super().on_task_call(producer, task_id)  # type: ignore[misc]

    def mark_as_done(
        self, task_id: str, result: Any, request: Any = None, store_result: bool = True, state: str = states.SUCCESS
    ) -> None:
        super().mark_as_done(task_id, result, request, store_result, state)  # type: ignore[misc]
        if execution.is_job(request):
            execution.succeed(request, result)

    def mark_as_failure(
        self, task_id: str, exc: Exception, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> None:
        super().mark_as_failure(task_id, exc, traceback=traceback, request=request, **kwargs)  # type: ignore[misc]
        if execution.is_job(request):
            execution.end(request, "failed", exc, traceback)

    def mark_as_revoked(self, task_id: str, reason: str = "", request: Any = None, **kwargs: Any) -> None:
        super().mark_as_revoked(task_id, reason, request=request, **kwargs)  # type: ignore[misc]
        if execution.is_job(request):
            execution.end(request, "cancelled", reason)


class Result(AsyncResult):
    """Celery's, with the promise of an end for who waits for it; who sends a task seldom does."""

    def __init__(self, id: str, backend: Any = None, task_name: Any = None, app: Any = None, parent: Any = None):
        if id is None:
            raise ValueError(f"AsyncResult requires valid id, not {type(id)}")
        self.app = app or self.app  # type: ignore[has-type]
        self.id, self.backend, self.parent = id, backend or self.app.backend, parent
        self._cache, self._ignored = None, False

    @cached_property
    def on_ready(self) -> promise:
        return promise(self._on_fulfilled, weak=True)


class Celery(StockCelery):
    """Celery's app, with durable jobs."""

    amqp_cls = "celeriac.jobs.enqueue:AMQP"
    task_cls = "celeriac.worker.task:Task"

    @property
    def tasks(self) -> Any:
        """Celery's, without the lock that a cached property of kombu's asks for each time."""
        return self._tasks if self.finalized else super().tasks

    @cached_property
    def AsyncResult(self) -> Any:  # noqa: N802
        return self.subclass_with_self(Result, name="AsyncResult", reverse="AsyncResult")

    @cached_property
    def gen_task_name(self) -> Any:
        """Celery's, which every look at a ``shared_task`` asks for the name of its task."""
        return cache(super().gen_task_name)

    def _get_backend(self) -> Any:
        backend = super()._get_backend()
        kind = type(backend)
        mixins = (JobsMixin, RedisMixin) if kind is RedisBackend and settings.BATCHED_RESULTS else (JobsMixin,)
        backend.__class__ = type(kind.__name__, (*mixins, kind), {"__module__": kind.__module__})
        return backend
