"""A worker's part of what operators do: it stops what it runs, and forgets what it was told of a job before."""

import logging
from typing import Any

from celery.worker import state as worker
from celery.worker.control import control_command

from celeriac.jobs import HEADER

logger = logging.getLogger(__name__)


@control_command(args=[("ids", list)], signature="<ids>")
def stop_jobs(state: Any, ids: list[str], **kwargs: Any) -> dict[str, list[str]]:
    """Kill the processes that run these tasks; says which ones were there. Sent by celeriac.jobs.operate.stop."""
    stopped = []
    for request in list(worker.active_requests):
        if request.id in ids:
            logger.warning("stopping %s %s, which was cancelled", request.name, request.id)
            request.terminate(state.consumer.pool)
            stopped.append(request.id)
    return {"stopped": stopped}


def admit(headers: dict[str, Any]) -> None:
    """A job that was run again by hand is not the one that was revoked, or expired: workers remember that for hours."""
    if type(headers[HEADER]) is int:
        worker.revoked.discard(headers["id"])
