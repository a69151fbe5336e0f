"""Sends the runs of schedules: many in one round trip, each once, whatever is tried again."""

import json
import logging
from collections.abc import Iterable
from typing import Any

from celery import Celery, current_app
from django.utils import timezone
from django_celery_beat.models import PeriodicTask
from kombu import Producer
from kombu.transport.redis import PublishBatch

from accounts.models import User
from celeriac.broker import BROKER_AWAY, Publisher
from celeriac.models import ScheduleRun
from celeriac.postgres import POSTGRES_AWAY

logger = logging.getLogger(__name__)

#: A message that was sent already is dropped by Redis itself. One whose answer was lost is sent again by the next
#: look, seconds later; a leader that was frozen in the middle of it, when it wakes up.
REMEMBERED = 3600  # seconds
SEND_ONCE = """
if redis.call('SET', KEYS[1], '', 'NX', 'EX', ARGV[1]) then redis.call('LPUSH', KEYS[2], ARGV[2]) end"""


class Unsendable(ValueError):  # noqa: N818  what the row is
    """No message can be made of the row; says why."""


class OnceBatch(PublishBatch):
    """kombu's batch of messages, in which Redis itself drops those whose task id it has had before."""

    def publish(self, message: dict[str, Any], **kwargs: Any) -> Any:
        self.task_id = message["headers"].get("id")  # events have none
        return super().publish(message, **kwargs)

    def add(self, name: str, *args: Any) -> None:
        if name != "lpush" or not self.task_id:
            super().add(name, *args)
            return
        prefix, (queue, payload) = self.channel.global_keyprefix, args  # kombu prefixes no EVAL
        sent = f"{prefix}celeriac.sent.{self.task_id}"
        super().add("eval", SEND_ONCE, 2, sent, prefix + queue, REMEMBERED, payload)


class Sender(Publisher):
    """Sends runs over a connection of its own."""

    def __init__(self, app: Celery) -> None:
        super().__init__(app, OnceBatch)

    def send(self, runs: Iterable[ScheduleRun]) -> None:
        """Send the runs; their ``sent_at`` is set, or their ``error`` when no message can be made. Saves nothing.

        Raises one of ``BROKER_AWAY``; then none counts as sent, and all can be given again.
        """
        runs, now = list(runs), timezone.now()
        with self.batch() as producer:
            for run in runs:
                if not run.error:
                    self._add(run, producer)
        for run in runs:
            run.sent_at = None if run.error else now

    def _add(self, run: ScheduleRun, producer: Producer) -> None:
        task = run.periodic_task
        try:
            args, kwargs, options = message(task)
            options |= {"task_id": run.task_id, "producer": producer, "retry": False}
            if task.task in self.app.tasks:
                self.app.tasks[task.task].apply_async(args, kwargs, **options)
            else:
                self.app.send_task(task.task, args, kwargs, **options)
        except BROKER_AWAY + POSTGRES_AWAY:  # the latter of a durable task, whose row is written
            raise
        except Exception as error:  # a row that is wrong is its own problem, and nobody else's
            run.error = f"{type(error).__name__}: {error}"
            logger.error("the schedule %r cannot be sent: %s", task.name, run.error)


def message(task: PeriodicTask) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
    """Arguments, keyword arguments and options of ``apply_async`` for one run."""
    options = {name: getattr(task, name) for name in ("queue", "exchange", "routing_key", "priority")}
    options = {name: value for name, value in options.items() if value is not None}
    if task.expire_seconds:  # its end, `expires`, is of the schedule: a run that was due before it is run
        options["expires"] = task.expire_seconds
    headers = json.loads(task.headers or "{}") | {"periodic_task_name": task.name}
    return json.loads(task.args or "[]"), json.loads(task.kwargs or "{}"), {**options, "headers": headers}


def run_now(task: PeriodicTask, user: User | None = None) -> ScheduleRun:
    """Run a schedule's task at once, besides its due times.

    While Redis is away the run is kept, and sent by the scheduler later. Raises :class:`Unsendable` when no
    message can be made, and keeps nothing.
    """
    run = ScheduleRun.objects.create(
        periodic_task=task, due_at=timezone.now(), kind=ScheduleRun.Kind.BY_HAND, user=user
    )
    sender = Sender(current_app._get_current_object())
    try:
        sender.send([run])
    except BROKER_AWAY:
        logger.warning("the run of %r is kept until Redis is back", task.name)
        return run
    finally:
        sender.close()
    if run.error:
        run.delete()
        raise Unsendable(run.error)
    run.save(update_fields=["sent_at"])
    return run
