"""The worker's heartbeat: beaten by the consumer's own loop while the pool's children answer."""

import logging
import os
import signal
import time
from contextlib import suppress
from typing import Any

from billiard.pool import Pool
from celery import bootsteps, signals
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker.consumer import Consumer

from celeriac.health.heartbeat import ALIVE, INTERVAL, PATIENCE, Heartbeat

logger = logging.getLogger(__name__)

heartbeat = Heartbeat()
#: Seconds an idle child may take to accept the task it was given.
ACCEPT_TIMEOUT = 20.0


class Beat(bootsteps.StartStopStep):
    """Consumer bootstep: beats from the event loop, which stops beating when the loop does.

    While the broker is away the loop is not running; :class:`celeriac.worker.consumer.Consumer` beats for
    every attempt to reconnect then, because waiting for a broker is being alive.
    """

    requires = {"celery.worker.consumer.tasks:Tasks"}

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        self.timer: Any = None
        #: Job -> when it was first seen with a child that had not taken it; pid -> when it was first seen deaf.
        self.given_since: dict[int, float] = {}
        self.deaf_since: dict[int, float] = {}

    def start(self, consumer: Consumer) -> None:
        heartbeat.beat()
        self.timer = consumer.timer.call_repeatedly(INTERVAL, self.tick, (consumer.pool,))

    def stop(self, consumer: Consumer) -> None:
        if self.timer:
            self.timer.cancel()

    def tick(self, pool: Any) -> None:
        now = time.monotonic()
        deaf = self.deaf_children(getattr(pool, "_pool", None), now)
        self.deaf_since = {pid: self.deaf_since.get(pid, now) for pid in deaf}
        if not deaf:
            return heartbeat.beat()
        logger.error("not beating: the children %s do not answer", sorted(deaf))
        for pid, since in self.deaf_since.items():
            if now - since > ALIVE + PATIENCE / 2:  # before the whole worker ends itself, with every other child
                logger.error("killing the child %d; the pool replaces it, and its task is tried again", pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def deaf_children(self, pool: Any, now: float) -> set[int]:
        """The children that are stopped, or were given a task and do not take it.

        A child in a long task is neither, and its time limit ends it if it hangs.
        """
        if not isinstance(pool, Pool):
            return set()
        states = {child.pid: _state(child.pid) for child in pool._pool}
        stopped = {pid for pid, state in states.items() if state in {"t", "T"}}
        given = {n: job for n, job in pool._cache.items() if getattr(job, "_write_to", None) and not job._accepted}
        self.given_since = {job: self.given_since.get(job, now) for job in given}
        late = {given[job]._write_to.pid for job, since in self.given_since.items() if now - since > ACCEPT_TIMEOUT}
        dead = {pid for pid, state in states.items() if state in {"", "Z"}}
        return stopped | late & states.keys() - dead  # the pool deals with the dead ones' tasks


def _state(pid: int) -> str:
    """The process's state as the kernel names it: T for stopped, Z for dead; empty when gone, or not on Linux."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def install_for_solo(pool: Any) -> None:
    """The solo pool runs its task in the loop: promise to be back after the task's time limit."""
    if isinstance(pool, SoloPool):
        signals.task_prerun.connect(_busy)
        signals.task_postrun.connect(_free)


def _busy(task: Any, **kwargs: Any) -> None:
    hard, _ = task.request.timelimit or (None, None)
    heartbeat.beat(busy=hard or task.app.conf.task_time_limit or 0)


def _free(**kwargs: Any) -> None:
    heartbeat.beat()
