"""The soft time limit, wherever in a task it arrives.

billiard's handler raises ``SoftTimeLimitExceeded`` at the instruction where the child happens to be:

- In a query it leaves a connection with an answer that nobody reads: the task can neither save what is done, as
  Celery's documentation advises, nor have its result stored, and Postgres works on.
- Where Django enters or leaves a transaction it leaves one that nobody ends: what the child stores from then on is
  lost. In a COMMIT, nobody knows whether it was one.
- Where any exception is caught (logging, signals, destructors, what publishes durable jobs) it is lost, and where it
  is made into another one (kombu's serializers, ``Task.retry``), no task catches it.
- Where a task that has ended is dealt with, it fails.

Here a query is cancelled, and for the rest the limit waits until that is done.
"""

import logging
import signal
import sys
from contextlib import suppress
from functools import partial
from inspect import unwrap
from types import FrameType
from typing import Any

from billiard import pool
from celery.app.task import Task
from celery.app.trace import TraceInfo
from celery.exceptions import SoftTimeLimitExceeded
from celery.states import SUCCESS
from celery.utils.dispatch import Signal
from django import dispatch
from django.db import connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.db.transaction import Atomic
from kombu.serialization import SerializerRegistry
from psycopg import Error
from psycopg.generators import execute
from psycopg.pq import ExecStatus, TransactionStatus

from celeriac import lines, send
from celeriac.jobs import batches, enqueue

#: Seconds for telling Postgres that a query is not waited for any more, and again for its answer.
CANCEL = 2.0
BROKEN = TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN
#: psycopg ends these when their block is left.
COPIES = ExecStatus.COPY_IN, ExecStatus.COPY_OUT
#: Seconds until a limit is tried again.
MOMENT = 0.005


def code(function: Any) -> Any:
    return unwrap(function).__code__


#: What is not interrupted. ``Atomic.__exit__`` calls what is to be done after the COMMIT, too.
WHOLE = {
    *map(code, (Atomic.__enter__, Atomic.__exit__, BaseDatabaseWrapper.connect, BaseDatabaseWrapper.on_commit)),
    *map(code, (logging.Logger._log, logging.Logger.handle, lines.say_each, Signal.send, dispatch.Signal.send_robust)),
    *map(code, (enqueue.publish_soon, batches.fold, send.as_json, SerializerRegistry.dumps, SerializerRegistry.loads)),
    *map(code, (Task.retry, TraceInfo.handle_error_state, TraceInfo.handle_ignore, TraceInfo.handle_reject)),
}


def install() -> None:
    """For every prefork pool: billiard looks its handler up in each child that it starts."""
    pool.soft_timeout_sighandler = on_soft_limit


def on_soft_limit(number: int, frame: FrameType | None) -> None:
    """Raise SoftTimeLimitExceeded in the task that runs, now or as soon as it may be interrupted."""
    if task_id := task_of(frame):
        interrupt(frame, task_id)


def interrupt(frame: FrameType | None, task_id: str, met: FrameType | None = None, wait: float = 0) -> None:
    """The task that runs; ``wait`` seconds ago that was put off because of ``met``."""
    meets = in_the_way(frame)
    # The same again: longer each time, because a signal lets the kernel's timeout for a read begin anew.
    if meets and remind(task_id, meets, 2 * wait if meets is met else MOMENT):
        return
    for connection in connections.all(initialized_only=True):
        stop_query(connection)
    sys.unraisablehook = partial(on_unraisable, task_id)
    raise SoftTimeLimitExceeded


def task_of(frame: FrameType | None) -> str:
    """The id of the task that runs, or "" if it has ended; by the names of Celery's tracer."""
    tracer = tracer_of(frame)
    seen = tracer.f_locals if tracer else {}
    has_ended = seen.get("state") == SUCCESS or seen.get("I") is not None
    return "" if has_ended else seen.get("uuid", "")


def tracer_of(frame: FrameType | None) -> FrameType | None:
    """Of the child's task, and not of one that runs eagerly in it."""
    return next((each for each in stack(frame) if each.f_code.co_name == "trace_task"), None)


def in_the_way(frame: FrameType | None) -> FrameType | None:
    """What runs and is not to be interrupted."""
    is_blocked = signal.SIGUSR1 in signal.pthread_sigmask(signal.SIG_BLOCK, ())  # since it arrived
    if is_blocked or frame is tracer_of(frame):
        return frame
    return next((each for each in stack(frame) if each.f_code in WHOLE), None)


def stack(frame: FrameType | None) -> list[FrameType]:
    """From the outermost to this one."""
    frames = []
    while frame:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def remind(task_id: str, meets: FrameType | None = None, wait: float = MOMENT) -> bool:
    """Try again in ``wait`` seconds; False of a task that has its own use for SIGALRM.

    A thread would get Python's lock mostly while the task writes to something, which may be what it has to wait for.
    """
    if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
        return False

    def again(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        if task_of(frame) == task_id:
            interrupt(frame, task_id, meets, wait)

    signal.signal(signal.SIGALRM, again)
    signal.setitimer(signal.ITIMER_REAL, wait)
    return True


def on_unraisable(task_id: str, lost: Any) -> None:
    """What was raised in a destructor, say."""
    if lost.exc_type is not SoftTimeLimitExceeded or not remind(task_id):
        sys.__unraisablehook__(lost)


def stop_query(connection: Any) -> None:
    """What psycopg does for KeyboardInterrupt. A transaction is to be rolled back, as after any error in it."""
    link = connection.connection
    if connection.vendor != "postgresql" or not link or link.info.transaction_status != TransactionStatus.ACTIVE:
        return
    if connection.in_atomic_block:
        connection.needs_rollback = True
    with suppress(Error):
        link.cancel_safe(timeout=CANCEL)
        results = link.wait(execute(link.pgconn), timeout=CANCEL)
        if results and results[-1].status in COPIES:
            return
    if link.info.transaction_status in BROKEN:
        connection.close()
