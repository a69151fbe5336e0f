"""How a worker stops: it takes nothing more, lets what is running finish, and puts the rest back.

Stock Celery offers a warm shutdown, which waits for as long as it takes (and is killed when the container's
grace ends: 5 of 5 messages were stuck until the visibility timeout), or a soft one, which sleeps its whole
timeout in a signal handler while no result is read and no time limit enforced. Here the loop keeps turning:
the worker is gone as soon as its last task is, and after ``worker_soft_shutdown_timeout`` seconds at the
latest, when Celery's cold shutdown returns the unfinished ones to their queue.
"""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from celery import bootsteps, platforms
from celery.worker import state
from celery.worker.consumer import Consumer

logger = logging.getLogger(__name__)

#: Seconds between two looks at what is still running.
LOOK = 0.2


class Drain(bootsteps.StartStopStep):
    """Consumer bootstep: takes over SIGTERM once the worker is consuming."""

    requires = {"celery.worker.consumer.tasks:Tasks"}
    # Kept over reconnects, so on the class.
    #: When SIGTERM came, on the monotonic clock.
    since: float | None = None
    #: Whether the worker waits for its broker: its loop, which drains, does not turn then.
    waiting = False

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        self.timer: Any = None
        self.told = False

    def start(self, consumer: Consumer) -> None:
        self.told = False
        platforms.signals["SIGTERM"] = self.on_sigterm
        self.timer = consumer.timer.call_repeatedly(LOOK, self.look, (consumer,))

    def stop(self, consumer: Consumer) -> None:
        if self.timer:
            self.timer.cancel()

    @staticmethod
    def on_sigterm(*args: Any) -> None:
        # Only flags: a handler interrupts the loop anywhere, and may not touch the broker.
        Drain.since = Drain.since or time.monotonic()
        if Drain.waiting:
            state.should_stop = os.EX_OK

    @classmethod
    @contextmanager
    def may_stop_at_once(cls) -> Iterator[None]:
        """While Celery connects: it looks every second whether it should stop."""
        cls.waiting = True
        try:
            yield
        finally:
            cls.waiting = False

    @classmethod
    def stop_waiting(cls) -> None:
        """Called at every attempt to reach the broker: a worker that was told to stop does not wait on."""
        if cls.since is not None:
            state.should_stop = os.EX_OK
        state.maybe_shutdown()

    def look(self, consumer: Consumer) -> None:
        if Drain.since is None or state.should_stop is not None or state.should_terminate is not None:
            return
        timeout = consumer.app.conf.worker_soft_shutdown_timeout
        if not self.told:
            self.told = True
            logger.info("draining: %d tasks have %.0f seconds to finish", len(state.active_requests), timeout)
            consumer.task_consumer.cancel()
            if consumer.controller.semaphore:
                consumer.controller.semaphore.clear()  # fetched and not started: back to the queue at the end
        if not state.active_requests and not getattr(consumer, "batches", None):
            state.should_stop = os.EX_OK
        elif time.monotonic() - Drain.since > timeout:
            logger.warning("putting %d unfinished tasks back into their queue", len(state.active_requests))
            consumer.app.conf.worker_soft_shutdown_timeout = 0  # it was waited for, here
            os.kill(os.getpid(), signal.SIGQUIT)
