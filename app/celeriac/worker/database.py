"""A worker's database connections: one for each child, kept across tasks and checked before each.

Stock Celery closes the connection around every task, and psycopg's pool with it (celery#10554).
``CELERY_DB_REUSE_MAX`` stops the closing; what is left to do is what Django does around every request.
bench/postgres.py measures the arrangements.
"""

from typing import Any

from celery import Celery, signals
from django.core.cache import close_caches
from django.db import connections

from celeriac.worker import running

#: So many tasks on one connection, of ``CELERY_DB_REUSE_MAX``, or more, are all.
ALL = 1_000_000
#: Whether it is this module that closes Django's caches.
taken_over = False


def install() -> None:
    signals.task_prerun.connect(check_connections)


def take_over(app: Celery) -> None:
    """From Celery's fixup, which counts before and after each task whether to close the database (never, here), and
    closes the caches: 9 us. Here that is done once for a batch."""
    for fixup in app._fixups:
        worker = getattr(fixup, "worker_fixup", None)
        if worker and (worker.db_reuse_max or 0) >= ALL:
            global taken_over
            taken_over = True
            signals.task_prerun.disconnect(worker.on_task_prerun)
            signals.task_postrun.disconnect(worker.on_task_postrun)


def check_connections(**kwargs: Any) -> None:
    """Close connections that failed; the next query of the others asks first whether Postgres still answers.

    That is ``CONN_HEALTH_CHECKS``, and what ``django.db.close_old_connections`` does, but for a task that runs
    eagerly inside somebody's transaction.
    """
    for alias in connections:
        # Those that there are; `all` looks twice (2 us).
        connection = getattr(connections._connections, alias, None)  # type: ignore[attr-defined]
        if connection and not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
    if running.batch is None:
        close_unused()


def close_unused() -> None:
    """Around a task that runs by itself, and after a batch."""
    if taken_over:
        close_caches()
