"""The tasks. Plain Celery takes ``durable`` and ``atomic`` for attributes like any other, and does nothing with them.

A journal on the volume of the workers, where it depends neither on Redis nor on Postgres, says what they did when.
"""

import sys
import time
from pathlib import Path
from typing import Any

from celery import Task, shared_task
from celery.signals import before_task_publish, task_postrun
from chaos.models import Effect
from django.conf import settings
from django.core.mail import EmailMessage

JOURNAL = Path(settings.STATE_DIR) / "chaos.journal"


def note(event: str, number: int, task_id: str) -> None:
    with JOURNAL.open("a") as journal:
        journal.write(f"{time.time():.3f} {event} {number} {task_id}\n")


def begin(task: Task, number: int) -> None:
    task.request.began = True
    note("began", number, task.request.id)


@task_postrun.connect
def end(task: Task, task_id: str, args: list[Any], state: str, **kwargs: Any) -> None:
    """``dropped`` is a delivery whose body was not run, ``undone`` one whose body was rolled back."""
    if task.name.startswith("chaos.") and task.name != quick.name:
        began = getattr(task.request, "began", False)
        words = {"SUCCESS": "done", "IGNORED": "undone" if began else "dropped"}
        note(words.get(state, state.lower()), args[0], task_id)


def sent(headers: dict[str, Any], **kwargs: Any) -> None:
    """Of beat, whose every run is to be there once; ours may publish one again, under its id."""
    note("sent", 0, headers["id"])


if "beat" in sys.argv:  # elsewhere a listener would keep messages from being prepared
    before_task_publish.connect(sent, sender="chaos.tasks.tick")


def write(task: Task, number: int, seconds: float) -> None:
    """Half of the work, the effect, the other half: a death may come before it and after it."""
    time.sleep(seconds / 2)
    Effect.objects.create(number=number, task_id=task.request.id)
    time.sleep(seconds / 2)


@shared_task(bind=True, durable=True, atomic=True)
def effect(self: Task, number: int, seconds: float) -> None:
    begin(self, number)
    write(self, number, seconds)


@shared_task(bind=True, durable=True, atomic=True)
def heavy_effect(self: Task, number: int, seconds: float) -> None:
    """The same on the other queue."""
    begin(self, number)
    write(self, number, seconds)


@shared_task(bind=True, durable=True)
def mail(self: Task, number: int, seconds: float) -> None:
    """The effect outside of the database, with the idempotency key that a mail service would look at."""
    begin(self, number)
    headers = {"Message-ID": f"<{self.request.id}@chaos>"}
    EmailMessage(f"order {number}", str(number), to=["ada@example.org"], headers=headers).send()
    time.sleep(seconds)


@shared_task(bind=True, durable=True, atomic=True)
def greedy(self: Task, number: int, seconds: float) -> None:
    """Takes memory without end, the first time that it runs; then it has its effect."""
    first, taken = f" began {number} " not in JOURNAL.read_text(), []
    begin(self, number)
    while first:
        taken.append(bytearray(16 << 20))
    write(self, number, seconds)


@shared_task(bind=True, durable=True, atomic=True)
def tick(self: Task, number: int, seconds: float) -> None:
    """What beat sends, every two seconds."""
    begin(self, number)
    write(self, number, seconds)


@shared_task(bind=True, default_retry_delay=5)  # when its child dies; Celery's default is three minutes
def quick(self: Task, number: int, seconds: float) -> None:
    """A plain task, of which hundreds come at once, for workers to take in batches. Its effect is in the journal."""
    time.sleep(seconds)
    note("did", number, self.request.id)


KINDS = {task.name.rpartition(".")[2]: task for task in (effect, heavy_effect, mail, greedy, quick)}
