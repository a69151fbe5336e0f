"""Durable jobs: a task that is marked so runs to its end, whatever is killed, emptied or cut off.

    @shared_task(durable=True)
    def charge(order_id): ...

    charge.delay_on_commit(order.pk)      # or delay, apply_async, a chain, a group, a schedule

Postgres remembers the work, Redis only carries it:

1. ``enqueue``: the row, with Celery's whole message, is written in the caller's transaction. After the commit
   the message goes to Redis; when Redis is away, later.
2. ``execution``: a worker claims the row with a lease and a fencing token before it runs the task, and writes down its
   end with the token. A second delivery finds the lease, and is dropped.
3. ``reconcile``: whatever is unfinished and neither in Redis nor under a lease is published again.

Its effect: with ``atomic=True`` exactly once for what it writes in the database; otherwise at least once,
twice only after a crash in the middle. The task's id (``self.request.id``) is the same at every attempt: hand
it to mail and payment services as their idempotency key.

No library does this for Celery: django-celery-outbox and its like are the first step alone (the message survives a dead
broker, not a broker that loses it, nor a worker that dies with it), and procrastinate, Oban and GoodJob replace Celery.
"""

from fnmatch import fnmatchcase

from celery import Celery
from django.conf import settings

#: Marks the message of a durable task.
HEADER = "celeriac_job"


def is_durable(app: Celery, name: str) -> bool:
    """Whether the task of this name is: by its own ``durable=True``, or by a pattern of ``DURABLE_TASKS``."""
    return getattr(app.tasks.get(name), "durable", False) or matches(name)


def matches(name: str) -> bool:
    """Whether a pattern of ``DURABLE_TASKS`` is meant for it: tasks of apps that know nothing of durable jobs."""
    return any(fnmatchcase(name, pattern) for pattern in settings.DURABLE_TASKS)
