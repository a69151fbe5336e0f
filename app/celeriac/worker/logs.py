"""A line for each task that is sent, and for each that has ended, with the id of the request it came from.

django-structlog's, but that a quick task does not also say that it begins: one line instead of two.
"""

import time
from typing import Any

import structlog
from django_structlog.celery import signals as extras
from django_structlog.celery.receivers import CeleryReceiver

from celeriac.lines import say
from celeriac.worker import running

LOGGER = "celeriac.tasks"
logger = structlog.get_logger(LOGGER)


class Receiver(CeleryReceiver):
    def get_task_context(self) -> dict[str, Any]:
        context = structlog.contextvars.get_contextvars()
        if "task_id" in context:
            context["parent_task_id"] = context.pop("task_id")
        return context

    def receiver_after_task_publish(
        self, sender: Any = None, headers: Any = None, body: Any = None, routing_key: Any = None, **kwargs: Any
    ) -> None:
        about = headers if headers and "id" in headers else body
        name, task_id = about.get("task"), about.get("id")
        say(LOGGER, "task_enqueued", child_task_id=task_id, child_task_name=name, routing_key=routing_key)

    def receiver_task_prerun(self, task_id: str, task: Any, *args: Any, **kwargs: Any) -> None:
        structlog.contextvars.clear_contextvars()
        context = getattr(task.request, "__django_structlog__", None) or {}
        structlog.contextvars.bind_contextvars(task_id=task_id, **context)
        extras.bind_extra_task_metadata.send(sender=self.receiver_task_prerun, task=task, logger=logger)
        task.request._django_structlog_started_at = time.monotonic_ns()
        if running.batch is None:
            say(LOGGER, "task_started", task=task.name)

    def receiver_task_success(self, result: Any = None, sender: Any = None, **kwargs: Any) -> None:
        extras.pre_task_succeeded.send(sender=self.receiver_task_success, logger=logger, result=result)
        milliseconds = (time.monotonic_ns() - sender.request._django_structlog_started_at) / 1e6
        say(LOGGER, "task_succeeded", task=sender.name, duration_ms=round(milliseconds))


def say_that_it_runs(request: Any) -> None:
    """Of a task that is not quick; ``request`` is the main process's."""
    context = request.request_dict.get("__django_structlog__") or {}
    say(LOGGER, "task_started", task=request.name, task_id=request.id, **context)


receiver = Receiver()
