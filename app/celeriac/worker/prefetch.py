"""How many messages a worker fetches ahead: as many as its children do in a moment, and none while they are slow.

No fixed number (``CELERY_WORKER_PREFETCH_MULTIPLIER``) is good: 1 costs a round trip for each quick task, and
64 leaves dozens of tasks behind a slow one while other workers have nothing to do.
"""

import logging
import time
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer import Consumer

from celeriac import transport
from celeriac.worker.drain import Drain

logger = logging.getLogger(__name__)

#: Seconds between two looks; seconds of work to have in hand; seconds without a start after which children are slow.
LOOK, AHEAD, SLOW = 0.05, 0.05, 0.25
#: Messages ahead, at most.
MOST = 200


class Prefetch(bootsteps.StartStopStep):
    """Consumer bootstep: moves the prefetch count with the pace of the children."""

    requires = {"celery.worker.consumer.tasks:Tasks"}

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        self.timer: Any = None

    def start(self, consumer: Consumer) -> None:
        self.ahead = 0
        self.started, self.looked_at = started(), time.monotonic()
        self.started_at = self.looked_at
        if isinstance(consumer.task_consumer.channel, transport.Channel) and consumer.controller.semaphore:
            self.timer = consumer.timer.call_repeatedly(LOOK, self.look, (consumer,))

    def stop(self, consumer: Consumer) -> None:
        if self.timer:
            self.timer.cancel()

    def look(self, consumer: Consumer) -> None:
        now, count = time.monotonic(), started()
        pace = (count - self.started) / max(now - self.looked_at, LOOK)
        self.started_at = now if count > self.started else self.started_at
        self.started, self.looked_at = count, now
        if now - self.started_at > SLOW:
            self.go_to(consumer, 0)
            consumer.qos.update()  # now: what goes back is not fetched again
            give_back(consumer)
        else:  # twice as much at a time, or half
            self.go_to(consumer, max(min(int(pace * AHEAD), 2 * self.ahead + 8, MOST), self.ahead // 2))

    def go_to(self, consumer: Consumer, ahead: int) -> None:
        move = consumer.qos.increment_eventually if ahead > self.ahead else consumer.qos.decrement_eventually
        if ahead != self.ahead:
            move(abs(ahead - self.ahead))
        self.ahead = ahead


def started() -> int:
    """Tasks that a child of this worker has begun."""
    return int(state.all_total_count[0])


def give_back(consumer: Consumer) -> None:
    """What waits for a child that is not free goes back to the front of its queue, for a worker that is."""
    waiting = consumer.controller.semaphore._waiting
    kept = max(consumer.initial_prefetch_count - len(state.active_requests), 0)  # what the multiplier asks for
    if len(waiting) <= kept or Drain.since is not None:  # a drain does it by itself
        return
    requests = [waiting.pop()[1][0] for _ in range(len(waiting) - kept)][::-1]
    for request in requests:
        state.task_ready(request)
    channel = consumer.task_consumer.channel
    tags = [request.message.delivery_tag for request in requests]
    channel.restore(tags, "RPUSH")
    for tag in tags:
        channel.qos._quick_ack(tag)
    logger.info("%d tasks that wait behind slow ones are back in their queue", len(tags))
