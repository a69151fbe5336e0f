"""A worker's part of cancelling what it runs: the control command that :func:`celeriac.jobs.operate.stop` sends."""

import logging
from typing import Any

from celery.worker import state as worker
from celery.worker.control import control_command

logger = logging.getLogger(__name__)


@control_command(args=[("ids", list)], signature="<ids>")
def stop_jobs(state: Any, ids: list[str], **kwargs: Any) -> dict[str, list[str]]:
    """Kill the processes that run these tasks; says which ones were there."""
    stopped = []
    for request in list(worker.active_requests):
        if request.id in ids:
            logger.warning("stopping %s %s, which was cancelled", request.name, request.id)
            request.terminate(state.consumer.pool)
            stopped.append(request.id)
    return {"stopped": stopped}
