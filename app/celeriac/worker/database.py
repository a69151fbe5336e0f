"""A worker's database connections: one for each child, kept across tasks and checked before each.

Stock Celery closes the connection around every task, and psycopg's pool with it (celery#10554).
``CELERY_DB_REUSE_MAX`` stops the closing; what is left to do is what Django does around every request.
bench/postgres.py measures the arrangements.
"""

from typing import Any

from celery import signals
from django.db import connections


def install() -> None:
    signals.task_prerun.connect(check_connections)


def check_connections(**kwargs: Any) -> None:
    """Close connections that failed; the next query of the others asks first whether Postgres still answers.

    That is ``CONN_HEALTH_CHECKS``, and what ``django.db.close_old_connections`` does, but for a task that runs
    eagerly inside somebody's transaction.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()
