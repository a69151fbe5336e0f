"""A worker's database connections: one for each child, kept across tasks and checked when it was idle.

Stock Celery closes the connection around every task, and psycopg's pool with it (celery#10554).
``CELERY_DB_REUSE_MAX`` stops the closing; what is left to do is to notice a connection that Postgres has
dropped, before a task finds out. bench/postgres.py measures the arrangements.
"""

import time
from typing import Any

from celery import signals
from django.db import connections

#: Seconds without a task after which the connection is asked whether it still works.
IDLE = 5.0

_last_used = 0.0


def install() -> None:
    signals.task_prerun.connect(check_connections)


def check_connections(**kwargs: Any) -> None:
    """Close connections that failed, and ones that were idle and do not answer; Django then opens new ones."""
    global _last_used
    now = time.monotonic()
    idle, _last_used = now - _last_used > IDLE, now
    for connection in connections.all(initialized_only=True):
        if connection.in_atomic_block:  # an eager task inside somebody's transaction
            continue
        if idle:
            connection.health_check_done = False  # type: ignore[attr-defined]  # the next query asks first, because of CONN_HEALTH_CHECKS
        connection.close_if_unusable_or_obsolete()
