"""A line for each task that is sent, and for each that has ended, with the id of the request it came from.

django-structlog's, but that a quick task does not also say that it begins: one line instead of two.
"""

import time
from collections.abc import Iterable
from typing import Any

import structlog
from celery.signals import after_task_publish, before_task_publish
from django_structlog.celery import signals as extras
from django_structlog.celery.receivers import CeleryReceiver

from celeriac.lines import say, say_each
from celeriac.worker import running

LOGGER = "celeriac.tasks"
#: The header with the context of who sent the task.
CONTEXT = "__django_structlog__"
logger = structlog.get_logger(LOGGER)


class Receiver(CeleryReceiver):
    #: Its entries among the receivers of the two signals of sending.
    mine: tuple[Any, ...] = ()

    def connect_worker_signals(self) -> None:
        super().connect_worker_signals()
        self.mine = tuple([signal.receivers[-1]] for signal in (before_task_publish, after_task_publish))

    def get_task_context(self) -> dict[str, Any]:
        return handed_on(structlog.contextvars.get_contextvars())

    def receiver_after_task_publish(
        self, sender: Any = None, headers: Any = None, body: Any = None, routing_key: Any = None, **kwargs: Any
    ) -> None:
        about = headers if headers and "id" in headers else body
        say_sent(routing_key, [(about.get("task"), about.get("id"))], structlog.contextvars.get_contextvars())

    def receiver_task_prerun(self, task_id: str, task: Any, *args: Any, **kwargs: Any) -> None:
        structlog.contextvars.clear_contextvars()
        request = task.request
        context = getattr(request, CONTEXT, None) or {}
        structlog.contextvars.bind_contextvars(task_id=task_id, **context)
        if extras.bind_extra_task_metadata.receivers:
            extras.bind_extra_task_metadata.send(sender=self.receiver_task_prerun, task=task, logger=logger)
        request._django_structlog_started_at = time.monotonic_ns()
        if running.batch is None:
            say(LOGGER, "task_started", task=task.name)

    def receiver_task_success(self, result: Any = None, sender: Any = None, **kwargs: Any) -> None:
        if extras.pre_task_succeeded.receivers:
            extras.pre_task_succeeded.send(sender=self.receiver_task_success, logger=logger, result=result)
        milliseconds = (time.monotonic_ns() - sender.request._django_structlog_started_at) / 1e6
        say(LOGGER, "task_succeeded", task=sender.name, duration_ms=round(milliseconds))


def listens_alone() -> bool:
    """Whether nobody else listens to what is sent: then it need not be asked, and writes its lines together."""
    now = (before_task_publish.receivers, after_task_publish.receivers)
    return now == receiver.mine and not extras.modify_context_before_task_publish.receivers


def handed_on(context: dict[str, Any]) -> dict[str, Any]:
    """The context that a task has of who sends it."""
    if "task_id" not in context:
        return context
    handed = {**context, "parent_task_id": context["task_id"]}
    del handed["task_id"]
    return handed


def say_sent(queue: Any, tasks: Iterable[tuple[Any, Any]], context: dict[str, Any]) -> None:
    """``tasks`` are their names and ids."""
    about = [{"child_task_id": task_id, "child_task_name": name, "routing_key": queue} for name, task_id in tasks]
    say_each(LOGGER, "task_enqueued", about, context)


def say_that_it_runs(request: Any) -> None:
    """Of a task that is not quick; ``request`` is the main process's."""
    context = request.request_dict.get(CONTEXT) or {}
    say(LOGGER, "task_started", task=request.name, task_id=request.id, **context)


receiver = Receiver()
