"""The claim logic as a model: whatever the order of events, no committed job is lost, and each has one effect.

Real are Postgres, ``delay``, ``execution``, ``enqueue`` and the reconciler. Redis is a bag of messages. A delivery is
a thread with a connection of its own that stops wherever its process could die, be paused, or wake up too late.
"""

import json
import queue
import threading
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from billiard.exceptions import WorkerLostError
from celery import current_app, shared_task
from celery._state import _task_stack
from celery.app.task import Context
from celery.exceptions import Ignore, MaxRetriesExceededError, Retry
from django.db import OperationalError, connection, transaction
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import ConnectionError as RedisAwayError

from celeriac.jobs import batches, enqueue, execution, leases, receipts, reconcile
from celeriac.jobs.request import Request
from celeriac.models import Job

pytestmark = pytest.mark.django_db(transaction=True)

ENDED = ("succeeded", "failed", "cancelled")
#: A job never goes back in this order, but for the next attempt of one that has not returned.
ORDER = {"waiting": 0, "running": 0, "returned": 1, **dict.fromkeys(ENDED, 2)}
ROWS = """
SELECT id, state, token, retries, attempts, crashes, worker, finished_at IS NOT NULL, published_at IS NOT NULL,
    error, lease_until, lease_until > now()
FROM celeriac_job ORDER BY created_at"""
FOLDED = """
SELECT id || lpad(to_hex(number), 4, '0'), 'waiting', 0, 0, 0, 0, '', false, false, '', NULL, NULL
FROM celeriac_batch, generate_series(0, cardinality(string_to_array(jobs, E'\\n')) - 1) AS number"""
CANCEL = """
UPDATE celeriac_job SET state = 'cancelled', finished_at = now(), lease_until = NULL
WHERE id = %s AND state IN ('waiting', 'running')"""
COLUMNS = "id state token retries attempts crashes worker finished published error lease_until held"


# --- The bodies --------------------------------------------------------------------------------------------


def effect_and_end(task):
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO effects (name) VALUES (%s)", [task.request.id])
    match current.delivery.pause("in the body"):
        case "fail":
            raise ValueError
        case "retry":
            raise task.retry(countdown=0)
        case "lose Postgres":
            connection.connection.close()
            raise OperationalError
    return "returned"


@shared_task(bind=True, durable=True, atomic=True, max_retries=3, track_started=False, name="claims.atomic")
def atomic(self):
    return effect_and_end(self)


@shared_task(bind=True, durable=True, max_retries=3, track_started=False, name="claims.not_atomic")
def not_atomic(self):
    return effect_and_end(self)


#: Where a delivery stops.
PLACES = ("fetched", "in the body", "returned", "failed")


# --- Deliveries --------------------------------------------------------------------------------------------

current = threading.local()


class Killed(BaseException):
    """SIGKILL: nothing between here and the end of the process is run; Postgres rolls back."""


class Worker(threading.Thread):
    """Has one delivery at a time, and goes on from one pause to the next when it is told to."""

    def __init__(self, name):
        super().__init__(daemon=True)
        self.hostname = name
        self.orders: queue.SimpleQueue = queue.SimpleQueue()
        self.news: queue.SimpleQueue = queue.SimpleQueue()
        self.at = "idle"
        self.request: Any = None
        self.message: Any = None
        self.start()

    def tell(self, order):
        self.orders.put(order)
        self.at = self.news.get(timeout=60)
        if isinstance(self.at, BaseException):
            error, self.at = self.at, "idle"
            raise error

    def pause(self, where):
        self.news.put(where)
        order = self.orders.get()
        if order == "die":
            raise Killed
        return order

    def run(self):
        current.delivery = self
        while (message := self.orders.get()) is not None:
            self.message = message
            try:
                self.deliver(current_app.tasks[message["task"]])
            except Killed:
                connection.close()
            except BaseException as error:
                self.news.put(error)
                continue
            self.news.put("idle")
        connection.close()

    def deliver(self, task):
        """What Celery's tracer does of it."""
        task.push_request(**self.message, hostname=self.hostname, called_directly=False, args=[], kwargs={})
        self.request = task.request_stack.top
        _task_stack.push(task)
        try:
            self.pause("fetched")
            try:
                result = task()
            except (Ignore, Retry):
                return
            except (ValueError, MaxRetriesExceededError) as error:
                self.pause("failed")
                execution.end(self.request, "failed", error)
                return
            self.pause("returned")
            execution.succeed(self.request, result)
        finally:
            _task_stack.pop()
            task.pop_request()


# --- Redis -------------------------------------------------------------------------------------------------


ASKED = ("enqueue", "enqueue many", "roll back", "look", "look closely", "cancel")
REDIS = ("wipe", "save", "go back", "double", "there", "away", "slow")


class Bag:
    """Redis: holds messages in any order, and may do with them what it likes."""

    def __init__(self):
        self.messages, self.receipts, self.mode = [], set(), "there"
        self.saved: Any = [], set()

    def send(self, by_queue, receipt=False):
        jobs = [job for jobs in by_queue.values() for job in jobs]
        ids = [job.id for job in jobs]
        self.take([job.message["headers"] for job in jobs], ids if receipt else [])
        return ids

    def send_batches(self, folded):
        for batch in folded:
            self.take([json.loads(raw)["headers"] for raw in batch.encoded()], [batches.receipt_of(batch.id)])

    def take(self, messages, receipts):
        if self.mode == "away":
            raise RedisAwayError
        self.messages += messages
        self.receipts.update(receipts)
        if self.mode == "slow":  # has taken them, but its answer does not come in time
            raise RedisAwayError

    def suffers(self, event):
        match event:
            case "wipe":
                self.messages, self.receipts = [], set()
            case "save":
                self.saved = list(self.messages), set(self.receipts)
            case "go back":
                self.messages, self.receipts = list(self.saved[0]), set(self.saved[1])
            case "double":
                self.messages *= 1 + (len(self.messages) < 6)
            case "there" | "away" | "slow":
                self.mode = event


class Reconciler(reconcile.Reconciler):
    def watch_redis(self):
        if bag.mode != "there":
            raise RedisAwayError

    def _may_scan(self):
        return False

    def _ids_in_redis(self):
        yield [message["id"] for message in bag.messages]


bag = Bag()
workers: list[Worker] = []


def some_at(*places):
    return precondition(lambda self: any(worker.at in places for worker in workers))


# --- The machine -------------------------------------------------------------------------------------------

some_worker = st.integers(0, 2)
somewhere = st.integers(0, 100)


class Jobs(RuleBasedStateMachine):
    @initialize(returned=st.booleans())
    def begin(self, returned):
        """Two jobs are running; the first one has its effect already, or not."""
        for worker in workers:
            if worker.at != "idle":  # the example before failed
                worker.tell("die")
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE celeriac_job, celeriac_batch, effects")
        bag.__init__()  # type: ignore[misc]
        self.reconciler = Reconciler(current_app)
        self.reconciler.postgres_since = -1000.0
        self.committed, self.may_end, self.read = {}, set(), []
        self.before, self.holder = {}, {}
        for task in (atomic, not_atomic):
            self.enqueue(task, True)
            self.start(self.live(0, "idle"), -1, kept=True, begun=True)
        if returned:
            self.step(workers[0], "return")

    # --- Enqueue

    def enqueue(self, task, committed, many=False):
        try:
            with transaction.atomic():
                sent = task.delay_many([[], []]) if many else [task.delay().id]
                if not committed:
                    raise ValueError
        except ValueError:
            return
        self.committed.update(dict.fromkeys(sent, task))

    # --- Workers

    def live(self, index, *places):
        """The next worker that is at one of these places, counted from this one."""
        for worker in workers[index:] + workers[:index]:
            if worker.at in places:
                return worker
        return None

    @rule(index=some_worker, which=somewhere, kept=st.booleans(), begun=st.booleans())
    @some_at("idle")
    def deliver(self, index, which, kept, begun):
        """``kept`` is a message that is delivered again later; any other is in this process alone."""
        if not bag.messages:
            bag.mode = "there"
            self.reconciler.look()
        if bag.messages:
            self.start(self.live(index, "idle"), which % len(bag.messages), kept, begun)

    def start(self, worker, which, kept, begun):
        worker.tell(bag.messages[which] if kept else bag.messages.pop(which))
        if begun:
            self.step(worker, "return")

    @rule(index=some_worker)
    @some_at(*PLACES)
    def go_on(self, index):
        self.step(self.live(index, *PLACES), "return")

    @rule(index=some_worker, how=st.sampled_from(["fail", "retry", "retry", "lose Postgres"]))
    @some_at("in the body")
    def body_ends(self, index, how):
        self.step(self.live(index, "in the body"), how)

    def step(self, worker, order):
        if worker.at == "in the body" and order in ("fail", "retry"):
            self.may_end.add(worker.request.id)  # the fourth retry is a failure, too
        was, request, before = worker.at, worker.request, rows().get(worker.message["id"])
        with self.no_stale_write(worker):
            worker.tell(order)
        if was == "fetched" and worker.at in ("in the body", "returned"):
            self.holder[before.id] = request
            assert before.retries == request.retries, "a message of an earlier attempt runs nothing"
        if order == "retry" and was == "in the body" and self.holder[before.id] is request:
            after = rows()[before.id]
            assert before.state != "running" or after.finished or after.retries == before.retries + 1

    @rule(index=some_worker, how=st.sampled_from(["killed", "killed, restarted", "by its main process", "renews"]))
    @some_at(*PLACES)
    def worker(self, index, how):
        worker = self.live(index, *PLACES)
        if how == "renews":
            with connection.cursor() as cursor:
                cursor.execute(leases.RENEWED, [execution.LEASE, [worker.request.id], worker.hostname])
        elif how == "by its main process":
            self.main_process_ends(worker, time_limit=index > 0)
        else:
            worker.tell("die")
            if index:  # Redis has it still, in ``unacked``
                bag.messages.append(worker.message)
            if how == "killed, restarted":
                execution.crashed_worker(worker.hostname)

    def main_process_ends(self, worker, time_limit):
        """Before it runs: expired. In the body: its time limit; or, as at any later moment, its child is killed."""
        main, at = MainProcess(worker), worker.at
        with self.no_stale_write(worker):
            worker.tell("die")
            if at == "fetched":
                self.may_end.add(main.id)
                execution.end(main.context, "cancelled", "expired")
            elif at == "in the body" and time_limit:
                self.may_end.add(main.id)
                execution.end(main.context, "failed", "TimeLimitExceeded")
            else:
                main.on_crash(WorkerLostError())

    # --- Time

    @rule(then=st.sampled_from(["unnoticed", "noticed", "taken over", "taken over"]))
    @some_at(*PLACES)
    def leases_run_out(self, then):
        self.time_passes()
        if then != "unnoticed":
            self.reconcile()
        while then == "taken over" and bag.messages and (worker := self.live(0, "idle")):
            self.start(worker, -1, kept=False, begun=True)

    def time_passes(self):
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE celeriac_job SET lease_until = now() - interval '1 second' WHERE lease_until > now()"
            )

    def reconcile(self):
        try:
            self.reconciler.look()
        except RedisAwayError:
            assert bag.mode != "there"

    # --- Meanwhile; one rule, for Hypothesis takes each as often as any other

    @rule(what=st.sampled_from([*ASKED, *REDIS]), which=somewhere)
    def meanwhile(self, what, which):
        match what:
            case "enqueue" | "enqueue many" | "roll back" if len(self.committed) < 5:
                many = what == "enqueue many" or which % 4 > 1
                self.enqueue([atomic, not_atomic][which % 2], what != "roll back", many)
            case "look" | "look closely":
                self.reconciler.suspicious |= what == "look closely"
                self.two_reconcilers()
            case "cancel":
                at_work = [worker.request.id for worker in workers if worker.at in PLACES]
                self.cancel((at_work or list(self.committed))[which % len(at_work or self.committed)])
            case _:
                bag.suffers(what)

    def two_reconcilers(self):
        """One of them is slow: it publishes what it had read before."""
        read = list(Job.objects.raw(reconcile.DUE, {"park": reconcile.PARK, "on_its_way": 0, "most": 100}))
        self.reconcile()
        if bag.mode == "there":
            enqueue.publish(self.read)
        self.read = read

    def cancel(self, job):
        self.may_end.add(job)
        batches.unfold_of([job])
        with connection.cursor() as cursor:
            cursor.execute(CANCEL, [job])

    # --- What has to be true

    @contextmanager
    def no_stale_write(self, worker):
        """A delivery whose claim is not the last one, or that came while another one has it, changes nothing.

        But that a main process may ask for the job to be published again, because it acknowledges the message.
        """
        request, before = worker.request, rows().get(worker.message["id"])
        stale = before and (before.held if worker.at == "fetched" else self.holder[before.id] is not request)
        yield
        if stale:
            now = rows()[before.id]
            if before.state == "waiting" and not now.published:
                before.token, before.published = now.token, now.published
            assert now == before, f"{worker.hostname} wrote without the lease"

    @invariant()
    def every_committed_job_is_there_and_goes_forward(self):
        now = rows()
        assert now.keys() == self.committed.keys()
        done = effects()
        for row in now.values():
            before = self.before.get(row.id, row)
            assert row.finished == (row.state in ENDED)
            assert not before.finished or row == before, f"{before} had ended"
            assert ORDER[row.state] >= ORDER[before.state]
            assert row.token >= before.token
            assert row.retries >= before.retries
            assert row.crashes >= before.crashes
            if self.committed[row.id] is atomic:
                if row.state in ("returned", "succeeded"):
                    assert done.get(row.id) == 1
                elif row.state in ("waiting", "running", "cancelled"):
                    assert row.id not in done
                else:
                    assert done.get(row.id, 0) <= 1
            if row.state == "succeeded":
                assert done[row.id] >= 1
        self.before = now

    def teardown(self):
        """All faults are over: every job ends, and those that nobody failed or revoked have succeeded."""
        if not hasattr(self, "committed"):
            return
        bag.mode = "there"
        for worker in workers:
            while worker.at != "idle":
                self.step(worker, "return")
        self.time_passes()
        self.reconcile()
        bag.suffers("wipe")  # the last one
        for _ in range(12):
            self.time_passes()
            self.reconciler.suspicious = True
            self.reconciler.look()
            while bag.messages:
                workers[0].tell(bag.messages.pop())
                while workers[0].at != "idle":
                    self.step(workers[0], "return")
            self.every_committed_job_is_there_and_goes_forward()
            if all(row.finished for row in rows().values()):
                break
        for row in rows().values():
            assert row.finished, f"{row} never ends"
            too_often = row.crashes >= 5 and row.error.startswith("Its worker died")
            assert row.state == "succeeded" or too_often or row.id in self.may_end, f"{row} has no reason to fail"


class MainProcess(Request):
    """The request as Celery's main process has it: without the claim that its child made."""

    def __init__(self, worker):
        self.id, self.hostname = worker.message["id"], worker.hostname
        self.context = Context(worker.message, hostname=worker.hostname, delivery_info={})

    id = hostname = None

    def acknowledge(self):
        pass

    def send_event(self, *args, **kwargs):
        pass


def rows():
    """With those that are folded: they wait, and nobody has had them yet."""
    with connection.cursor() as cursor:
        cursor.execute(f"{FOLDED} UNION ALL ({ROWS})")
        return {row[0]: SimpleNamespace(**dict(zip(COLUMNS.split(), row, strict=True))) for row in cursor.fetchall()}


def effects():
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, count(*) FROM effects GROUP BY name")
        return dict(cursor.fetchall())


@pytest.fixture
def model(transactional_db, monkeypatch):
    monkeypatch.setattr(enqueue, "send_alike", bag.send)
    monkeypatch.setattr(batches, "publish", bag.send_batches)
    monkeypatch.setattr(receipts, "among", lambda client, names: bag.receipts & set(names))
    monkeypatch.setattr(reconcile, "publisher", MagicMock())
    monkeypatch.setattr(enqueue, "send_others", lambda jobs: [job.id for job in jobs if pytest.fail("has options")])
    monkeypatch.setattr(enqueue, "REST", 0.0)
    monkeypatch.setattr(reconcile, "EVERY", 0.0)
    monkeypatch.setattr(reconcile, "ON_ITS_WAY", 0)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS effects (name text)")
    workers.extend(Worker(f"worker-{number}") for number in range(3))
    yield
    for worker in workers:
        if worker.at != "idle":
            worker.tell("die")
        worker.orders.put(None)
        worker.join(20)
    workers.clear()


def test_a_child_that_died_before_it_had_claimed_its_job_costs_no_attempt(model):
    """Its main process acknowledges the message, so the job has to be published anew."""
    job = Job.objects.get(pk=not_atomic.delay().id)
    worker = SimpleNamespace(message=job.message["headers"], hostname="worker-0")

    MainProcess(worker).on_crash(WorkerLostError())

    job.refresh_from_db()
    assert (job.state, job.published_at, job.attempts, job.crashes) == ("waiting", None, 0, 0)
    bag.messages.clear()
    reconciler = Reconciler(current_app)
    reconciler.suspicious = False
    reconciler.look()
    assert [message["id"] for message in bag.messages] == [job.id]


def test_whatever_happens_no_job_is_lost_and_each_has_one_effect(model):
    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=100,
            stateful_step_count=40,
            deadline=None,
            database=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
