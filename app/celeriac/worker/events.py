"""A child's events, for Flower and whoever else watches: sent with those of its batch, and not all when there are many.

Flower is complete up to ``SHOWN`` tasks a second in each child; of more, it shows so many, and a row that says how
many it does not.
"""

import logging
import os
import time
from typing import Any

from celery import current_app

from celeriac.broker import BROKER_AWAY, Publisher
from celeriac.sampling import SHOWN, Sampler
from celeriac.send import event_commands

logger = logging.getLogger(__name__)

Event = dict[str, Any]


class Events:
    """This process's; made after the fork."""

    def __init__(self, hostname: str) -> None:
        self.app = current_app._get_current_object()
        self.publisher = Publisher(self.app)
        self.hostname = hostname
        self.sampler = Sampler()
        #: Tasks that are not shown: since the last events were sent, and in this minute.
        self.hidden, self.hidden_in_minute, self.minute = 0, 0, 0
        self.summed_up_at = 0.0

    def shows(self, now: float) -> bool:
        """Whether the next task's events are sent."""
        shown = self.sampler.shows(1, now)
        self.hidden += 1 - shown
        return bool(shown)

    def send(self, events: list[Event]) -> None:
        """In one message. While Redis is away nobody watches: they are dropped."""
        now = time.monotonic()
        if self.hidden and now - self.summed_up_at > 1:
            self.summed_up_at = now
            events = [*events, *self.summary()]
        if not events:
            return
        try:
            with self.publisher as channel:
                self.publisher.execute(event_commands(self.app, channel, self.hostname, events))
        except BROKER_AWAY as error:
            logger.debug("%d events are dropped: %s", len(events), error)

    def summary(self) -> list[Event]:
        """Of what is not shown, as a task of its own for each child and minute."""
        minute = int(time.time() / 60)
        if minute != self.minute:
            self.minute, self.hidden_in_minute = minute, 0
        self.hidden_in_minute += self.hidden
        self.hidden = 0
        uuid, count = f"not-shown-{os.getpid()}-{minute}", f"{self.hidden_in_minute:,} tasks"
        about = {"id": uuid, "task": f"(not shown: more than {SHOWN} a second)", "argsrepr": count, "kwargsrepr": "{}"}
        return [received(about), succeeded(uuid, count, 0.0)]


def received(request: dict[str, Any]) -> Event:
    """As Celery's main process says it."""
    return {
        "type": "task-received",
        "uuid": request["id"],
        "name": request.get("shadow") or request["task"],
        "args": request.get("argsrepr", ""),
        "kwargs": request.get("kwargsrepr", ""),
        "root_id": request.get("root_id"),
        "parent_id": request.get("parent_id"),
        "retries": request.get("retries", 0),
        "eta": None,
        "expires": None,
        "timestamp": time.time(),
    }


def started(task_id: str) -> Event:
    return {"type": "task-started", "uuid": task_id, "timestamp": time.time()}


def succeeded(task_id: str, result: Any, runtime: float | None) -> Event:
    return {"type": "task-succeeded", "uuid": task_id, "result": result, "runtime": runtime, "timestamp": time.time()}
