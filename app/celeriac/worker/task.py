"""The class of every task: durable if it says so, and a retry that cannot be queued is not given up."""

from collections.abc import Iterable, Sequence
from typing import Any

from celery.contrib.django.task import DjangoTask
from celery.exceptions import Reject

from celeriac import send
from celeriac.broker import BROKER_AWAY
from celeriac.jobs import batches, execution, is_durable, matches
from celeriac.jobs.enqueue import job_of, record, together
from celeriac.send import Call


class Task(DjangoTask):
    """Celery's task for Django, with ``delay_on_commit``; ``durable`` and ``atomic`` are celeriac.jobs'."""

    durable = False
    #: Whether the body of a durable task and its end are one transaction, so that its effect is there once.
    atomic = False

    @classmethod
    def on_bound(cls, app: Any) -> None:
        """Only durable tasks pay for being called: Celery's tracer calls ``run`` by itself otherwise."""
        if cls.durable or matches(cls.name):
            cls.__call__ = call_job  # type: ignore[method-assign]
            cls.Request = "celeriac.jobs.request:Request"

    def apply_async(self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any) -> Any:
        """Celery's; what has no options of its own is sent from what is prepared for the task."""
        sender = None if options and has_some(options) else send.sender_of(self)
        call = Call(args or (), kwargs or {}, task_id or send.new_id())
        usual = isinstance(call.args, list | tuple) and isinstance(call.kwargs, dict) and isinstance(call.task_id, str)
        if sender is None or not usual:
            return super().apply_async(args, kwargs, task_id, **options)
        parent = self.app.current_worker_task
        try:
            self.send_all(sender, [call], parent)
        except BROKER_AWAY:  # Celery's way to try again, and to say so
            return super().apply_async(args, kwargs, call.task_id, **options)
        return self.sent(call.task_id, parent)

    def send_all(self, sender: send.Sender, calls: list[Call], parent: Any) -> None:
        """To Redis, or to their rows. Raises one of ``BROKER_AWAY`` for what is not durable."""
        if sender.durable:
            queue = {"queue": sender.queue.name}
            with together():
                record([job_of(self.app, self.name, sender.message(*call), dict(queue)) for call in calls])
        else:
            sender.send(calls, parent)

    def sent(self, task_id: str, parent: Any) -> Any:
        result = self.app.AsyncResult(task_id)
        result.ignored = self.ignore_result
        if parent:
            parent.add_trail(result)
        return result

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        self.apply_async_on_commit(args, kwargs)

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Celery's; but a durable task's row is part of the transaction: only its message waits for the commit."""
        if is_durable(self.app, self.name):
            self.apply_async(*args, **kwargs)
        else:
            super().apply_async_on_commit(*args, **kwargs)

    def delay_many(self, arguments: Iterable[Sequence[Any]], **options: Any) -> list[str]:
        """``apply_async(args, **options)`` for each, as one statement and one round trip; returns the ids."""
        sender = None if has_some(options) else send.sender_of(self)
        if sender is None:
            with together():
                return [self.apply_async(args, **options).id for args in arguments]
        each = [tuple(args) for args in arguments]
        ids = batches.record_new(sender, each) if sender.durable else None
        parent = self.app.current_worker_task
        if ids is None:
            ids = send.new_ids(len(each))
            self.send_all(sender, [Call(args, {}, task_id) for args, task_id in zip(each, ids, strict=True)], parent)
        if parent:
            for task_id in ids:
                self.sent(task_id, parent)
        return ids

    def replace(self, sig: Any, *args: Any, **kwargs: Any) -> Any:
        """Celery's; a durable task may not, because the one that takes its place would have its id, and its row."""
        if execution.is_job(self.request):
            raise TypeError(f"{self.name} is durable, and cannot be replaced: send the other task, or make it a chain.")
        return super().replace(sig, *args, **kwargs)

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Celery's ``retry``, which drops the task for good when the broker is away at that moment.

        Here the message it came by goes back to its queue, and the attempt is made again.
        """
        try:
            return super().retry(*args, **kwargs)
        except Reject as rejected:  # celery/app/task.py: `except Exception: raise Reject(exc, requeue=False)`
            raise Reject(rejected.reason, requeue=True) from rejected


def has_some(options: dict[str, Any]) -> bool:
    return any(value is not None for value in options.values())


def call_job(self: Task, *args: Any, **kwargs: Any) -> Any:
    """What Celery's tracer calls for a durable task."""
    if self.request.called_directly:
        return DjangoTask.__call__(self, *args, **kwargs)
    if not execution.is_job(self.request):  # sent before the task became durable
        return self.run(*args, **kwargs)
    return execution.run(self, self.run, args, kwargs)
