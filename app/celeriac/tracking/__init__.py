"""Tasks that people watch: who started one, how far it is, and a page or a JSON answer that says so.

    task_id = track(request, "Thumbnail of cat.png")
    thumbnail.apply_async_on_commit([upload.pk], task_id=task_id)

and in a template ``{% load tracking %}{% task_status task_id %}``, or ``GET /api/tasks/<id>/``. Only the
owner sees it: the user who was signed in, or the session of the visitor.
"""

import time
from typing import Any

from celery import Task
from celery.utils import uuid
from django.http import HttpRequest

#: The state of a task that says how far it is; Celery leaves such states to the application.
PROGRESS = "PROGRESS"


def track(request: HttpRequest, label: str, task_id: str = "") -> str:
    """Remember that whoever asks owns the task with this id; without one, a new id is made and returned.

    Send the task afterwards, with ``task_id=`` of ``apply_async``: so a task that was sent is never one that
    nobody owns.
    """
    from celeriac.models import TrackedTask  # models cannot be imported before the apps are ready

    task_id = task_id or uuid()
    TrackedTask.objects.get_or_create(task_id=task_id, defaults={"label": label[:200], **TrackedTask.owner(request)})
    return task_id


class Progress:
    """How far a bound task is; each report is a write, so they are made twice a second at most."""

    INTERVAL = 0.5  # seconds

    def __init__(self, task: Task, total: int | None = None) -> None:
        """``total`` counts the same things as ``done`` will, rows or bytes; ``None`` when nobody knows."""
        self.task, self.total, self.reported_at = task, total, 0.0

    def report(self, done: int, note: str = "", at_once: bool = False) -> None:
        now = time.monotonic()
        if at_once or now - self.reported_at >= self.INTERVAL:
            self.reported_at = now
            meta: dict[str, Any] = {"done": done, "total": self.total, "note": note}
            self.task.update_state(state=PROGRESS, meta=meta)
