"""The soft time limit, wherever in a task it arrives.

billiard's handler raises ``SoftTimeLimitExceeded`` at the instruction where the child happens to be:

- In a query it leaves a connection with an answer that nobody reads: the task can neither save what is done, as
  Celery's documentation advises, nor have its result stored, and Postgres works on.
- Where Django enters or leaves a transaction it leaves one that nobody ends: what the child stores from then on is
  lost. In a COMMIT, nobody knows whether it was one.
- Where all exceptions are caught (logging, signals, Django's robust hooks, what publishes durable jobs), it is lost.

Here a query is cancelled, and for the rest the limit waits until it is done.
"""

import logging
import signal
from collections.abc import Iterator
from contextlib import suppress
from inspect import unwrap
from threading import Timer, main_thread
from types import FrameType
from typing import Any

from billiard import pool
from celery.exceptions import SoftTimeLimitExceeded
from celery.states import SUCCESS
from celery.utils.dispatch import Signal
from django import dispatch
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic
from psycopg import Error
from psycopg.generators import execute
from psycopg.pq import TransactionStatus

from celeriac import lines, send
from celeriac.jobs import batches, enqueue

#: Seconds for telling Postgres that a query is not waited for any more, and again for its answer.
CANCEL = 2.0
#: Seconds until the limit is tried again.
MOMENT = 0.005


def code(function: Any) -> Any:
    return unwrap(function).__code__


#: What is not interrupted.
WHOLE = {
    *map(code, (Atomic.__enter__, Atomic.__exit__, BaseDatabaseWrapper.connect)),
    *map(code, (logging.Handler.handle, lines.say_each, Signal.send, dispatch.Signal.send_robust)),
    *map(code, (enqueue.publish_soon, batches.fold, send.as_json)),
}
#: But somebody's own code may be, that is called after the COMMIT.
HOOKS = code(BaseDatabaseWrapper.run_and_clear_commit_hooks)
BROKEN = TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN


def install() -> None:
    """For every prefork pool: billiard looks this name up in each child that it starts."""
    pool.soft_timeout_sighandler = on_soft_limit


def on_soft_limit(number: int, frame: FrameType | None, of: list[FrameType] | None = None) -> None:
    """Raise SoftTimeLimitExceeded in the task that runs, if it is still ``of``, with its connections usable."""
    run = [each for each in stack(frame) if each.f_code.co_name == "trace_task"][-1:]
    if not run or of not in (None, run) or run[0].f_locals.get("state") == SUCCESS:
        return  # what has ended well is not to fail
    if is_whole(frame):
        signal.signal(signal.SIGRTMIN, lambda number, frame: on_soft_limit(number, frame, run))
        again = Timer(MOMENT, signal.pthread_kill, (main_thread().ident, signal.SIGRTMIN))
        again.daemon = True
        again.start()
        return
    for connection in connections.all(initialized_only=True):
        stop_query(connection)
    raise SoftTimeLimitExceeded


def is_whole(frame: FrameType | None) -> bool:
    for each in stack(frame):
        if each.f_code in WHOLE or each.f_code is HOOKS:
            return each.f_code is not HOOKS
    return False


def stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame:
        yield frame
        frame = frame.f_back


def stop_query(connection: Any) -> None:
    """What psycopg does for KeyboardInterrupt. A transaction is to be rolled back, as after any error in it."""
    link = connection.connection
    if connection.vendor != "postgresql" or not link or link.info.transaction_status != TransactionStatus.ACTIVE:
        return
    with suppress(Error):
        link.cancel_safe(timeout=CANCEL)
        link.wait(execute(link.pgconn), timeout=CANCEL)
    if link.info.transaction_status in BROKEN:
        connection.close()
    elif connection.in_atomic_block:
        connection.needs_rollback = True
