"""Tasks that belong to no app."""

from typing import Any

from celery import Task, shared_task


@shared_task(bind=True, ignore_result=False)
def debug_task(self: Task) -> dict[str, Any]:
    """Return this task's own request: which queue, worker, retry and time limits it ran with."""
    request = self.request
    return {
        "id": request.id,
        "task": request.task,
        "queue": (request.delivery_info or {}).get("routing_key"),
        "hostname": request.hostname,
        "retries": request.retries,
        "timelimit": request.timelimit,
        "args": request.argsrepr,
        "kwargs": request.kwargsrepr,
    }
