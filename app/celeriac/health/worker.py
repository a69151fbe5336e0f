"""The worker's heartbeat: beaten by the consumer's own loop while the pool's children answer."""

import logging
import time
from typing import Any

from billiard.pool import Pool
from celery import bootsteps, signals
from celery.concurrency.solo import TaskPool as SoloPool
from celery.worker.consumer import Consumer

from celeriac.health.heartbeat import INTERVAL, Heartbeat

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
        self.waiting_since: dict[int, float] = {}

    def start(self, consumer: Consumer) -> None:
        heartbeat.beat()
        self.timer = consumer.timer.call_repeatedly(INTERVAL, self.tick, (consumer.pool,))

    def stop(self, consumer: Consumer) -> None:
        if self.timer:
            self.timer.cancel()

    def tick(self, pool: Any) -> None:
        reason = self.deaf(getattr(pool, "_pool", None))
        if reason:
            logger.error("not beating: %s", reason)
        else:
            heartbeat.beat()

    def deaf(self, pool: Any) -> str | None:
        """Why the pool's children count as not answering, or None.

        A child in a long task is neither stopped nor idle, and its time limit ends it if it hangs.
        """
        if not isinstance(pool, Pool):
            return None
        stopped = [child.pid for child in pool._pool if _is_stopped(child.pid)]
        if stopped:
            return f"children {stopped} are stopped"
        now = time.monotonic()
        given = {job._job for job in pool._cache.values() if getattr(job, "_write_to", None) and not job._accepted}
        self.waiting_since = {job: self.waiting_since.get(job, now) for job in given}
        late = [job for job, since in self.waiting_since.items() if now - since > ACCEPT_TIMEOUT]
        return f"{len(late)} tasks were given to children that do not take them" if late else None


def _is_stopped(pid: int) -> bool:
    """Whether the kernel holds the process stopped (SIGSTOP, a tracer); Linux only, elsewhere False."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] in "tT"
    except OSError:
        return False


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
