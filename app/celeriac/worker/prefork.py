"""Celery's prefork pool, given messages by the batch: ``CELERY_WORKER_POOL=celeriac.worker.prefork:TaskPool``.

In the stock pool a task costs the main process more than most tasks take: a request, callbacks, messages through pipes.
Here a child gets as many messages as it does in a moment, runs them one after the other, and stores their
results together (``celeriac.worker.batch``); the main process acknowledges them with its next fetch.

That is for what is plain and quick. The rest is as in Celery:

- What is to wait (``eta``, rate limits), may not run (revoked, expired, unknown) or is acknowledged before it runs is
  handed out one by one, by Celery's own code.
- A batch that takes longer than ``SLOW``, or that somebody asks about (``inspect``, ``revoke``), is settled: what has
  ended is stored and acknowledged, the task that runs becomes a request of Celery's, with its limits and its place in
  ``inspect active``, and what was not begun goes back to the front of its queue.
- A child that dies has lost the task that it ran, as in Celery, and no other.

The price: results are there a moment later, and a worker that is killed runs again what it had not acknowledged, up to
``MOST`` tasks for each child; one for each child in the stock pool (``CELERY_WORKER_POOL=prefork``).
"""

import itertools
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from billiard.exceptions import Terminated, WorkerLostError
from billiard.pool import EX_RECYCLE, SIG_SOFT_TIMEOUT
from celery import bootsteps, signals, states
from celery.concurrency import asynpool
from celery.concurrency import prefork as stock
from celery.worker import state
from celery.worker.consumer import Consumer
from celery.worker.consumer.control import Control
from celery.worker.request import Request, create_request_cls
from django.db import connection
from kombu.utils.imports import symbol_by_name

from celeriac import transport
from celeriac.app import RESULTS_AWAY
from celeriac.jobs import HEADER, execution
from celeriac.jobs.request import Request as JobRequest
from celeriac.memory import settle
from celeriac.postgres import not_waiting_for_locks
from celeriac.transport import Fetched
from celeriac.worker import batch
from celeriac.worker.drain import Drain
from celeriac.worker.events import received
from celeriac.worker.logs import say_that_it_runs
from celeriac.worker.slots import Slot, make_slots

logger = logging.getLogger(__name__)

#: Seconds of work that a batch should be; messages in it, at most; and seconds after which it is settled.
AHEAD, MOST, SLOW = 0.05, 400, 0.25
#: Seconds that a child may take to claim its durable jobs, before it begins the first one.
CLAIMING = 5.0
#: Seconds between two looks at the batches that run.
LOOK = 0.05
#: No time limit of the pool's own: a batch has none, its tasks do.
NEVER = 1e9
#: Commands of remote control that stop what runs; and with those that look at it.
STOPS = {"revoke", "revoke_by_stamped_headers", "terminate", "stop_jobs"}
ASKS = {"active", "reserved", "query_task"} | STOPS


class Worker(asynpool.Worker):
    """What runs in a child: it counts tasks, not batches, until it is replaced."""

    maxtasks: int | None
    wait_for_job: Callable[[], Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.most, self.maxtasks = self.maxtasks, None

    def __reduce__(self) -> Any:
        kind, arguments = super().__reduce__()
        return kind, (*arguments[:5], self.most, *arguments[6:])

    def _make_child_methods(self, *args: Any, **kwargs: Any) -> None:
        super()._make_child_methods(*args, **kwargs)
        receive, batch.left = self.wait_for_job, self.most or math.inf

        def wait_for_job() -> Any:
            if batch.leaving or batch.left <= 0:
                sys.exit(EX_RECYCLE)
            job = receive()
            batch.left -= bool(job)
            return job

        self.wait_for_job = wait_for_job


class AsynPool(asynpool.AsynPool):
    Worker = Worker

    def flush(self) -> None:
        """When the connection was lost Celery forgets what no child has accepted; a batch that is written will be."""
        for job in tuple(self._cache.values()):
            if job._write_to is not None and job._write_to._is_alive() and getattr(job, "is_batch", False):
                job._accepted = True
        super().flush()

    def on_partial_read(self, job: Any, proc: Any) -> None:
        super().on_partial_read(job, proc)
        # Accepted by ``flush``, and the child died before it said so itself.
        if getattr(job, "is_batch", False) and job._accepted and not job._worker_pid:
            self.mark_as_worker_lost(job, proc.exitcode or 0)


class TaskPool(stock.TaskPool):
    Pool = AsynPool

    def on_start(self) -> None:
        batch.slots = make_slots(max(64, 4 * self.limit))
        batch.prepare(self.app)
        settle()
        super().on_start()


@dataclass(eq=False)
class Batch:
    """Messages that a child has."""

    slot: Slot
    messages: list[Fetched]
    #: When it was given to the pool, on the monotonic clock; and the child that took it.
    given: float
    pid: int = 0
    job: Any = None
    #: Whether all but ``request``, of the message ``index``, are done with.
    settled: bool = False
    request: Request | None = None
    index: int = -1
    soft_sent: bool = False
    #: Durable jobs that the child may be claiming while the batch is settled; it gives up the claims by itself.
    claiming: list[Fetched] = field(default_factory=list)
    #: Whether the child is through with it; whether there are ends to be read; what the child died of.
    over: bool = False
    has_ends: bool = True
    error: Any = None
    #: Whether to settle it failed, by a bug.
    broken: bool = False

    @property
    def child_died(self) -> bool:
        error = getattr(self.error, "exception", self.error)
        return error is True or isinstance(getattr(error, "exc", error), WorkerLostError | Terminated)

    def is_late(self, now: float) -> bool:
        being_claimed = self.slot.state() == (-1, 0) and any(map(is_durable, self.messages))
        return now - self.given > (CLAIMING if being_claimed else SLOW)


class Batches(bootsteps.StartStopStep):
    """Consumer bootstep: takes messages as they are fetched, and looks after the batches that run."""

    requires = {"celery.worker.consumer.tasks:Tasks", "celeriac.worker.consumer:Reattach"}

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        self.consumer = consumer
        #: Also the consumer's, so that a drain waits for them.
        self.batches: list[Batch] = []
        consumer.batches = self.batches
        #: Orders to stop tasks of batches that could not be settled then.
        self.orders: list[tuple[list[Batch], Callable[[], Any]]] = []
        self.timer: Any = None
        self.channel: Any = None
        self.free_slots: list[Slot] = []
        #: Seconds that a task takes, by what the last ones took; tasks in the next batch, and at most.
        self.pace, self.size = AHEAD, 1
        #: Tasks that may be in a batch; (name, whether events are on) -> the class of its requests.
        self.most = MOST
        self.plain: set[str] = set()
        self.request_classes: dict[tuple[str, bool], type[Request]] = {}

    def include_if(self, consumer: Consumer) -> bool:
        # Children that are spawned, and not forked, have no part in the slots.
        return isinstance(consumer.pool, TaskPool) and consumer.controller.pool_start_method == "fork"

    # --- With the consumer -----------------------------------------------------------------------------------

    def start(self, consumer: Consumer) -> None:
        channel = consumer.task_consumer.channel
        if not isinstance(channel, transport.Channel) or consumer.hub is None or counts_what_is_reserved(consumer):
            return
        if self.channel is None:
            self.free_slots = list(batch.slots)
            self.settle_when_asked(consumer)
        self.channel = channel
        self.most = min(MOST, consumer.controller.max_tasks_per_child or MOST)
        self.plain = {name for name, task in consumer.app.tasks.items() if is_plain(task)}
        for lost in [each for each in self.batches if not each.over and not self.has_job(each)]:
            self.forget(lost)  # with the connection, as Celery does with all that no child has taken
            self.put_back(lost.messages)
        for each in self.batches:
            if each.request:
                each.request.message.channel = channel
        channel.taker = self
        self.timer = consumer.timer.call_repeatedly(LOOK, self.look)

    def stop(self, consumer: Consumer) -> None:
        if self.timer:
            self.timer.cancel()
        if self.channel:
            self.channel.taker = None
        if consumer.blueprint.state == bootsteps.CLOSE:  # the worker stops: what is not begun goes back
            for each in list(self.batches):
                self.try_to_settle(each)

    def shutdown(self, consumer: Consumer) -> None:
        """The pool is gone: what had ended is stored, and what a child still had goes back."""
        for each in list(self.batches):
            self.forget(each)
            try:
                if not each.settled:
                    each.over, each.error = True, True
                    self.settle(each)
            except Exception as error:
                logger.warning("results of %d tasks are not stored, and they run again: %s", len(each.messages), error)
            self.put_back(each.messages)

    def settle_when_asked(self, consumer: Consumer) -> None:
        """Before remote control looks at what runs, or stops it."""
        for step in consumer.steps:
            if isinstance(step, Control):
                node = step.box.node
                node.handlers = {
                    name: self.settling(handler, name in STOPS) if name in ASKS else handler
                    for name, handler in node.handlers.items()
                }
        # The first step of a cold shutdown, in the handler of its signal.
        consumer.controller.wait_for_soft_shutdown = self.settling(consumer.controller.wait_for_soft_shutdown)

    def settling(self, handler: Callable[..., Any], again: bool = False) -> Callable[..., Any]:
        """``again``, when all of them are settled, if one of them cannot be settled now."""

        def handle(*args: Any, **kwargs: Any) -> Any:
            for each in list(self.batches):
                self.try_to_settle(each)
            if again and (unsettled := [each for each in self.batches if not each.settled]):
                self.orders.append((unsettled, partial(handler, *args, **kwargs)))
            return handler(*args, **kwargs)

        return handle

    # --- Taking messages -------------------------------------------------------------------------------------

    def free_children(self) -> int:
        semaphore = self.consumer.controller.semaphore
        # Not by the semaphore alone, which a lost connection resets.
        running = [each for each in self.batches if not each.over]
        busy = len(running) + len(set(state.active_requests) - {each.request for each in running})
        return max(0, min(semaphore.value, self.consumer.pool.num_processes - busy, len(self.free_slots)))

    def room(self) -> int:
        """How many messages children can take now."""
        return 0 if Drain.since is not None else self.free_children() * self.size

    def take(self, fetched: list[Fetched]) -> list[Fetched]:
        """Give children what they can run by themselves; returns the rest."""
        mine: list[Fetched] = []
        left: list[Fetched] = []
        for each in fetched:
            (mine if self.may_take(each) else left).append(each)
        if not (free := self.free_children()):
            return fetched
        if len(left) > len(mine):
            self.size = 1  # so many are not wanted
        share = math.ceil(len(mine) / free)
        for start in range(0, len(mine), share or 1):
            self.give(mine[start : start + share])
        return left

    def may_take(self, fetched: Fetched) -> bool:
        message = fetched.message
        headers = message.get("headers")
        if not headers or headers.get("task") not in self.plain:
            return False
        return (
            headers.get("eta") is None
            and headers.get("expires") is None
            and headers.get("id") not in state.revoked
            and not (state.revoked_stamps and headers.get("stamped_headers"))
            and "compression" not in headers
            and message.get("content-type") == "application/json"
            and message.get("content-encoding") == "utf-8"
            and message["properties"].get("body_encoding") == "base64"
            and self.consumer.task_buckets[headers["task"]] is None
            and fetched.queue not in self.channel.never_acknowledged
            and not signals.task_received.receivers
        )

    def give(self, messages: list[Fetched]) -> None:
        slot = self.free_slots.pop()
        slot.prepare(len(messages))
        self.batches.append(Batch(slot, messages, time.monotonic()))
        self.consumer.controller.semaphore.acquire(self.apply, self.batches[-1])

    def apply(self, each: Batch) -> None:
        each.job = self.consumer.pool.apply_async(
            batch.run,
            (each.slot.number, [fetched.raw for fetched in each.messages], self.consumer.hostname, self.events),
            accept_callback=partial(self.on_accepted, each),
            callback=partial(self.on_done, each),
            error_callback=partial(self.on_error, each),
            soft_timeout=NEVER,
            timeout=NEVER,
        )
        if each.job:
            each.job.is_batch = True

    @property
    def events(self) -> bool:
        sender = self.consumer.event_dispatcher
        return bool(sender and sender.enabled and (not sender.groups or "task" in sender.groups))

    # --- What becomes of them --------------------------------------------------------------------------------

    def on_accepted(self, each: Batch, pid: int, when: float) -> None:
        each.pid = pid

    def on_done(self, each: Batch, said: tuple[dict[str, tuple[int, float]], bool]) -> None:
        seconds, each.has_ends = said
        count, total = (sum(column) for column in zip(*seconds.values(), strict=True)) if seconds else (0, 0.0)
        if count:
            self.pace = (self.pace + total / count) / 2
            self.go_to(AHEAD / max(self.pace, AHEAD / MOST))
            state.total_count.update({name: number for name, (number, _) in seconds.items()})
            state.all_total_count[0] += count
        self.on_over(each)

    def on_error(self, each: Batch, error: Any) -> None:
        each.error = error
        self.on_over(each)

    def on_over(self, each: Batch) -> None:
        each.over = True
        self.consumer.controller.semaphore.release()
        self.channel.may_have_more = True  # the next fetch says so, and takes the acknowledgements with it
        self.try_to_settle(each)

    def go_to(self, size: float) -> None:
        self.size = max(1, min(int(size), 2 * self.size, self.most))

    def look(self) -> None:
        """Settle what takes long, or could not be settled, and enforce the limits of what runs."""
        now = time.monotonic()
        for each in list(self.batches):
            if each.over or (not each.settled and (each.is_late(now) or Drain.since is not None)):
                self.try_to_settle(each)
            if each.request and not each.over:
                self.limit(each, each.request, now - each.slot.since())
        for batches, order in list(self.orders):
            if all(each.settled or each not in self.batches for each in batches):
                self.orders.remove((batches, order))
                order()

    def try_to_settle(self, each: Batch) -> None:
        try:
            if not each.settled:
                self.settle(each)
            if each.over and not each.broken:
                self.finish(each)
                self.forget(each)
                each.slot.prepare(0)  # what is in its journal may be much
        except RESULTS_AWAY as error:  # at the next look
            logger.debug("a batch is not settled yet: %r", error)
            connection.close()
        except Exception:  # a bug: what is not acknowledged runs again, rather than never
            logger.exception("a batch of %d tasks cannot be settled", len(each.messages))
            each.settled = each.broken = True
        if each.over and each.broken:
            self.forget(each)
            self.put_back(each.messages)
            if each.request:
                state.task_ready(each.request)

    def settle(self, each: Batch) -> None:
        """Be done with all messages but the one that is begun. Raises BlockingIOError, or one of ``RESULTS_AWAY``."""
        current, ended = self.seal(each)
        left = each.messages[max(ended, current + 1) :]
        died = not each.over or each.error
        records = each.slot.read() if died or each.has_ends or left else []
        if died:
            self.store(each, records)
        self.give_up(each, left, records, begun=(current, ended) != (-1, 0))
        each.settled = True
        if died and self.events:
            for event in itertools.chain.from_iterable(events for (events,) in of(records, "events")):
                self.eventer.send(**event)
        ends = dict(of(records, "end"))
        for index, fetched in enumerate(each.messages[:ended]):
            if index in ends:
                self.end(self.request(fetched), fetched, ends[index])
            else:
                self.succeeded(fetched)
        if current >= 0:
            self.begun(each, current)
        self.put_back([fetched for fetched in left if fetched not in each.claiming])

    def seal(self, each: Batch) -> tuple[int, int]:  # not `close`, which Celery calls of every step that has it
        """Let the child begin nothing more. Returns the message whose task runs, or ran when it died, or -1; and how
        many have ended."""
        if each.over:
            current, ended = each.slot.state()
            return (current if not each.error or each.child_died else -1), ended  # else no task is what failed
        with each.slot.lock(wait=False):
            current, ended = each.slot.close()
        if current >= 0 and not each.pid:
            raise BlockingIOError("the child's word that it has begun is still on its way")
        self.size = 1 if current >= 0 else self.size
        return current, ended

    def store(self, each: Batch, records: list[Any]) -> None:
        """What the child kept, and may store itself meanwhile."""
        stored = each.slot.stored
        if kept := [record for record in records if record[0] in ("row", "job")][stored:]:
            self.consumer.app.backend.store_kept(kept)
            each.slot.stored = max(each.slot.stored, stored + len(kept))

    def give_up(self, each: Batch, left: list[Fetched], records: list[Any], begun: bool) -> None:
        """The claims of durable jobs that were not begun; or leave it to the child, which is about to make them."""
        made = of(records, "claims")  # once, or not yet
        claims = made[0][0] if made else {}
        if given_up := {task_id: claims[task_id] for task_id in map(id_of, left) if task_id in claims}:
            with not_waiting_for_locks():
                execution.unclaim(given_up)
        if not each.over and not begun and not made:
            each.claiming = list(filter(is_durable, left))

    def begun(self, each: Batch, index: int) -> None:
        """A task that takes long, or killed its child, becomes a request of Celery's."""
        each.index, fetched = index, each.messages[index]
        each.request = request = self.request(fetched)
        if request is None:
            return
        state.task_reserved(request)
        if self.events and request.task.send_events:
            self.eventer.send(**received(request.request_dict))
        request.on_accepted(each.pid, each.slot.since())
        if not each.over:
            say_that_it_runs(request)
            if request.task.track_started and not request.ignore_result:
                self.store_started(each, request)

    def store_started(self, each: Batch, request: Request) -> None:
        about = {"pid": each.pid, "hostname": self.consumer.hostname}
        backend, seconds = request.task.backend, time.monotonic() - each.slot.since()
        try:
            if hasattr(backend, "store_started"):
                backend.store_started(request.id, about, request._context, seconds)
            else:
                backend.store_result(request.id, about, states.STARTED, request=request._context)
        except Exception as error:
            logger.warning("not stored that %s runs: %s", request.id, error)

    def finish(self, each: Batch) -> None:
        """The task that took long has ended, or its child is dead."""
        self.put_back(each.claiming)
        if each.index < 0:
            return
        fetched = each.messages[each.index]
        if each.error:
            end = (2, each.error, None)
        else:
            end = dict(of(each.slot.read(), "end")).get(each.index, (0, None, None))
        self.end(each.request, fetched, end)

    def end(self, request: Request | None, fetched: Fetched, end: tuple[int, Any, Any]) -> None:
        """What Celery does when the pool returns: events, and an acknowledgement, or whatever the task asked for."""
        if request is None:
            return self.channel.acknowledge(fetched.tag)
        try:
            if end[0] == 2:
                request.on_failure(end[1])
            else:
                request.on_success(end)
        except Exception:
            logger.exception("after %s", request.id)
        if fetched.tag in self.channel.queue_of:  # as of one that is cancelled because its worker stops
            if end[0]:
                self.put_back([fetched])
            else:
                self.succeeded(fetched)

    def succeeded(self, fetched: Fetched) -> None:
        state.successful_requests.add(id_of(fetched))
        self.channel.acknowledge(fetched.tag)

    def request(self, fetched: Fetched) -> Request | None:
        """Celery's request; none for a message that says nothing."""
        app, name = self.consumer.app, fetched.message["headers"]["task"]
        task = app.tasks[name]
        known = (name, self.events)
        if known not in self.request_classes:
            base = symbol_by_name(task.Request)
            made = create_request_cls(base, task, self.consumer.pool, self.consumer.hostname, self.eventer, app=app)
            self.request_classes[known] = made
        try:
            message = self.channel.Message(transport.exactly(fetched.raw, fetched.tag), channel=self.channel)
            return self.request_classes[known](
                message,
                on_ack=message.ack_log_error,
                on_reject=message.reject_log_error,
                app=app,
                hostname=self.consumer.hostname,
                eventer=self.eventer,
                task=task,
                connection_errors=self.consumer.connection_errors,
            )
        except Exception:
            logger.critical("dropped, because it cannot be read: %.500r", fetched.raw, exc_info=True)
            return None

    @property
    def eventer(self) -> Any:
        return self.consumer.event_dispatcher

    def put_back(self, messages: list[Fetched]) -> None:
        """To the front of their queue, those that are not done with."""
        if messages:
            try:
                self.channel.restore([fetched.tag for fetched in messages], "RPUSH")
            except self.consumer.connection_errors as error:  # they come back after the visibility timeout
                logger.warning("%d messages are not put back yet: %s", len(messages), error)

    def forget(self, each: Batch) -> None:
        if each in self.batches:
            self.batches.remove(each)
            self.free_slots.append(each.slot)

    def has_job(self, each: Batch) -> bool:
        return bool(each.job) and each.job._job in self.consumer.pool._pool._cache

    # --- Limits ----------------------------------------------------------------------------------------------

    def limit(self, each: Batch, request: Request, seconds: float) -> None:
        hard, soft = request.time_limits
        pool = self.consumer.pool._pool
        hard = hard or request.task.time_limit or pool.timeout
        soft = soft or request.task.soft_time_limit or pool.soft_timeout
        if hard and seconds >= hard:
            fetched, each.request, each.index = each.messages[each.index], None, -1
            # First: what on_timeout stores may wait for a row that the child has locked.
            self.consumer.pool.terminate_job(each.pid, signal.SIGKILL)
            self.timed_out(request, fetched, hard)
        elif soft and seconds >= soft and not each.soft_sent:
            with suppress(BlockingIOError, ProcessLookupError), each.slot.lock(wait=False):
                if each.slot.state()[0] == each.index:  # and stays so, while we have the lock
                    request.on_timeout(True, soft)
                    os.kill(each.pid, SIG_SOFT_TIMEOUT)
                each.soft_sent = True

    def timed_out(self, request: Request, fetched: Fetched, limit: float) -> None:
        try:
            request.on_timeout(False, limit)
        except RESULTS_AWAY as error:
            logger.warning("it is not stored that %s took too long, and it runs again: %s", request.id, error)
            self.put_back([fetched])
        except Exception:  # somebody's hook: the result is stored
            logger.exception("after the time limit of %s", request.id)
            self.channel.acknowledge(fetched.tag)


def counts_what_is_reserved(consumer: Consumer) -> bool:
    """Whether something decides by Celery's list of reserved requests, in which batches are not."""
    return bool(consumer.controller.autoscaler or consumer.app.conf.worker_disable_prefetch)


def id_of(fetched: Fetched) -> str:
    return fetched.message["headers"]["id"]


def of(records: list[Any], kind: str) -> list[Any]:
    """What the child wrote down of this kind, without the kind."""
    return [record[1:] for record in records if record[0] == kind]


def is_durable(fetched: Fetched) -> bool:
    return HEADER in fetched.message["headers"]


def is_plain(task: Any) -> bool:
    """Whether nothing about the task needs the main process before it runs."""
    return bool(
        task.acks_late
        and task.Strategy == "celery.worker.strategy:default"
        and symbol_by_name(task.Request) in (Request, JobRequest)
    )
