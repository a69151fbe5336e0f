"""A child's part: run a batch of messages, one after the other, and store their results together.

Everything about one task is Celery's: its tracer, its signals, its request. What is done once for the batch is what
costs a round trip: results, events, the words between the child and its main process.
"""

import json
import logging
import math
import os
import pickle
import time
from binascii import a2b_base64
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from billiard.common import terminate_handler_fired
from billiard.einfo import ExceptionInfo
from billiard.pool import MaybeEncodingError
from celery import Celery, current_app, signals
from celery.app.task import Context
from celery.utils.threads import _FastLocalStack
from kombu.utils.json import loads

from celeriac.app import RESULTS_AWAY
from celeriac.jobs import HEADER, execution
from celeriac.postgres import patiently
from celeriac.worker import database, running
from celeriac.worker.events import Event, Events, received, started, succeeded
from celeriac.worker.slots import Slot

logger = logging.getLogger(__name__)

#: Seconds of durable jobs that have ended and are not written down: they run again when the worker is killed.
UNSAID = 0.01
#: What Celery takes out of a message's headers to see which are the sender's own.
CELERYS = {*vars(Context), "lang", "task", "argsrepr", "kwargsrepr", "compression"}
#: ``json.loads``, which looks for the encoding, and for white space, first.
decode = json.JSONDecoder().raw_decode
#: Made by the pool before it forks.
slots: Sequence[Slot] = ()
#: Tasks that this child may still run, the first one of a job of the pool not counted; whether one wants it to end.
left, leaving = math.inf, False


def prepare(app: Celery) -> None:
    """Before the children are forked: what Celery's tracer does in each of them, but quicker."""
    database.take_over(app)
    for task in app.tasks.values():
        task.request_stack = _FastLocalStack()  # in C, for tracers that run in the thread that made them (6 us)
    for signal in (signals.task_prerun, signals.task_success, signals.task_postrun):
        signal.use_caching, signal.sender_receivers_cache = True, WeakKeyDictionary()  # as Signal(use_caching=True)


class Batch:
    """The batch that this child runs."""

    def __init__(self, slot: Slot, hostname: str, events: Events | None) -> None:
        self.slot, self.hostname = slot, hostname
        self.events, self.unsent = events, list[Event]()
        self.task_id = ""
        self.backend = current_app.backend
        #: What is to be stored, in the order in which it was written down: results ("row") and ends of durable jobs
        #: ("job"); and when that was done last.
        self.kept: list[tuple[str, Any]] = []
        self.stored_at = time.monotonic()
        #: Durable jobs that are claimed and not begun: id -> token.
        self.claims: dict[str, int] = {}
        self.simple = True
        self.has_ends = False
        self.seconds: dict[str, tuple[int, float]] = {}

    def run(self, messages: Sequence[bytes]) -> None:
        tasks = current_app._tasks
        read = [decode(raw.decode())[0] for raw in messages]
        self.claim([message["headers"] for message in read if HEADER in message["headers"]])
        began = time.monotonic()
        for index, message in enumerate(read):
            if not self.slot.begin(index, began):
                break
            if HEADER in message["headers"] and began - self.stored_at > UNSAID:
                with suppress(*RESULTS_AWAY):  # tried again at the end
                    self.store()
            name = message["headers"]["task"]
            shown = self.events and tasks[name].send_events and self.events.shows(began)
            if shown:
                self.note(received(message["headers"]), started(message["headers"]["id"]))
            end = self.run_one(tasks[name], message)
            if shown and not end[0]:
                self.note(succeeded(message["headers"]["id"], *end[1:]))
            if end[0] or self.slot.is_closed(len(messages)):  # else the main process has nothing to do for it
                self.write_end(index, end)
            now = time.monotonic()
            count, seconds = self.seconds.get(name, (0, 0.0))
            self.seconds[name] = (count + 1, seconds + now - began)
            began = now
            if leaving or left <= index:
                self.slot.close()  # after this one
        else:
            self.slot.begin(len(messages), began)
        self.store()
        patiently(execution.unclaim)(self.claims)  # of what the main process took away while it was being claimed
        if self.events:
            self.events.send(self.unsent)

    def note(self, *events: Event) -> None:
        """For the end of the batch; or for the main process, if that is far."""
        self.slot.write(("events", events))
        self.unsent += events

    def run_one(self, task: Any, message: dict[str, Any]) -> tuple[int, Any, Any]:
        """What Celery's pool returns for a task: whether it failed, its result, its seconds; 2 if its tracer failed."""
        request = message["headers"]
        self.task_id = request["id"]
        try:
            self.fill(request, message)
            result, failed, seconds, text = task.__trace__(self.task_id, request["args"], request["kwargs"], request)
        except BaseException as error:
            if terminate_handler_fired():
                raise
            global leaving
            leaving = isinstance(error, SystemExit | KeyboardInterrupt)
            return 2, ExceptionInfo(), None
        finally:
            self.task_id = ""
        return (1, result, seconds) if failed else (0, text, seconds)

    def fill(self, request: dict[str, Any], message: dict[str, Any]) -> None:
        """What Celery's ``Request`` and ``fast_trace_task`` add to a message's headers."""
        properties = message["properties"]
        delivery = properties["delivery_info"]
        body = a2b_base64(message["body"])
        # kombu's asks about every map in it (5 us) whether it stands for something else.
        args, kwargs, embed = loads(body) if b"__type__" in body else decode(body.decode())[0]
        # What others follow is stored before they can ask for it.
        self.simple = not (embed and (embed.get("chord") or embed.get("chain") or embed.get("callbacks")))
        request.update(
            # The sender's own; Celery looks for them, among the names of all its attributes (10 us), if there are none.
            headers={name: value for name, value in request.items() if name not in CELERYS} or None,
            properties=properties,
            reply_to=properties.get("reply_to"),
            correlation_id=properties.get("correlation_id"),
            hostname=self.hostname,
            delivery_info={
                "exchange": delivery.get("exchange"),
                "routing_key": delivery.get("routing_key"),
                "priority": properties.get("priority"),
                "redelivered": delivery.get("redelivered", False),
            },
            args=args,
            kwargs=kwargs,
            is_eager=False,
            **embed or {},
        )

    def write_end(self, index: int, end: tuple[Any, Any, Any]) -> None:
        self.has_ends = True
        try:
            pickle.loads(pickle.dumps(end))  # noqa: S301 - the main process will
            self.slot.write(("end", index, end))
        except Exception as error:  # what the task raised cannot be pickled
            try:
                raise MaybeEncodingError(error, end[1]) from None
            except MaybeEncodingError:
                self.slot.write(("end", index, (2, ExceptionInfo(), None)))

    def claim(self, durable: list[dict[str, Any]]) -> None:
        """The others, of which a worker died or that run elsewhere, are claimed, or dropped, when they begin."""
        if len(durable) > 1:
            self.claims = patiently(execution.claim_many)(durable, self.hostname)
            self.slot.write(("claims", self.claims))

    def keep(self, kind: str, what: Any) -> None:
        self.slot.write((kind, what))
        self.kept.append((kind, what))

    def store(self) -> None:
        """What is kept, but for what the main process has stored, because one of the tasks was slow."""
        if kept := self.kept[self.slot.stored :]:
            self.backend.store_kept(kept, patient=True)
            self.slot.stored = len(self.kept)
        self.stored_at = time.monotonic()


@cache
def events_of(pid: int, hostname: str) -> Events:
    return Events(hostname)


def run(
    number: int, messages: Sequence[bytes], hostname: str, events: bool
) -> tuple[dict[str, tuple[int, float]], bool]:
    """What the pool calls in a child.

    Returns task's name -> how many ran and for how many seconds together; and whether there are ends to be read.
    """
    global left
    batch = running.batch = Batch(slots[number], hostname, events_of(os.getpid(), hostname) if events else None)
    try:
        batch.run(messages)
        return batch.seconds, batch.has_ends
    finally:
        left -= max(sum(count for count, _ in batch.seconds.values()) - 1, 0)
        running.batch = None
        database.close_unused()
