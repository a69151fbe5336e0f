"""What a worker's main process does for a durable job whose child is gone."""

import logging
from typing import Any

from billiard.exceptions import WorkerLostError
from celery.worker import state
from celery.worker.request import Request as StockRequest
from django.db import connection

from celeriac.jobs import HEADER, control, execution

logger = logging.getLogger(__name__)


class Request(StockRequest):
    """Celery's, but that a job whose child died waits again at once, and that its deaths are counted.

    Stock either runs such a task again without an end (28 runs in 20 s), or after three minutes, as a retry that
    uses up the task's own.
    """

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        if HEADER in self._request_dict:
            control.admit(self._request_dict)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        if isinstance(exc_info.exception, WorkerLostError) and execution.is_job(self._context):
            return self.on_crash(exc_info.exception)
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def _retry_worker_lost(self, exc: Exception, exc_info: Any) -> bool:
        if not execution.is_job(self._context):
            return super()._retry_worker_lost(exc, exc_info)
        self.on_crash(exc)
        return True

    def on_crash(self, error: Exception) -> None:
        state.task_ready(self)
        try:
            if not execution.crashed(self.id, worker=self.hostname):
                execution.put_off(self.id, seconds=0)  # it had not claimed the job yet, and its message is gone
        except Exception as problem:  # Postgres is away: the lease runs out, and the reconciler sees it
            logger.warning("the crash of %s is not written down: %s", self.id, problem)
            connection.close()
        self.acknowledge()
        logger.warning("the child that ran %s died: %s", self.id, error)
        self.send_event("task-retried", exception=repr(error), traceback="")
