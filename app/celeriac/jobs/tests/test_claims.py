"""The claim logic as a model: whatever the order of events, no committed job is lost, and each has one effect.

Real are Postgres, ``delay``, ``execution``, ``enqueue`` and the reconciler; Redis is a bag of messages, and a delivery is
a thread with a connection of its own that stops wherever its process could die, be paused, or wake up too late.
"""

import queue
import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from celery import current_app, shared_task
from celery.exceptions import Ignore, Retry
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

from celeriac.jobs import enqueue, execution, leases, reconcile
from celeriac.models import Job

pytestmark = pytest.mark.django_db(transaction=True)

ENDED = ("succeeded", "failed", "cancelled")
#: A job never goes back in this order, but for the next attempt of one that has not returned.
ORDER = {"waiting": 0, "running": 0, "returned": 1, **dict.fromkeys(ENDED, 2)}
ROWS = """
SELECT id, state, token, retries, attempts, crashes, worker, finished_at IS NOT NULL, published_at IS NOT NULL,
    error, lease_until, lease_until > now()
FROM celeriac_job ORDER BY created_at"""
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


@shared_task(bind=True, durable=True, atomic=True, max_retries=3, name="claims.atomic")
def atomic(self):
    return effect_and_end(self)


@shared_task(bind=True, durable=True, max_retries=3, name="claims.not_atomic")
def not_atomic(self):
    return effect_and_end(self)


# --- Deliveries --------------------------------------------------------------------------------------------

current = threading.local()


class Killed(BaseException):
    """SIGKILL: nothing between here and the end of the process is run; Postgres rolls back."""


class Worker(threading.Thread):
    """Has one delivery at a time, and goes on from one pause to the next when it is told to."""

    def __init__(self, name):
        super().__init__(daemon=True)
        self.hostname = name
        self.orders, self.news = queue.SimpleQueue(), queue.SimpleQueue()
        self.at, self.request, self.message = "idle", None, None
        self.start()

    def tell(self, order):
        self.orders.put(order)
        self.at = self.news.get(timeout=20)
        if isinstance(self.at, BaseException):
            error, self.at = self.at, "idle"
            raise error

    def pause(self, where):
        self.news.put(where)
        order = self.orders.get()
        if order == "die":
            raise Killed
        return order

    @property
    def token(self):
        claim = getattr(self.request, "job", None)
        return claim and claim.token

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
        try:
            self.pause("fetched")
            try:
                result = task()
            except (Ignore, Retry):
                return
            except ValueError as error:
                self.pause("failed")
                execution.end(self.request, "failed", error)
                return
            self.pause("returned")
            execution.succeed(self.request, result)
        finally:
            task.pop_request()


# --- Redis -------------------------------------------------------------------------------------------------


class Bag:
    """Redis: holds messages in any order, and may do with them what it likes."""

    def __init__(self):
        self.messages, self.saved, self.mode = [], [], "there"

    @contextmanager
    def batch(self):
        if self.mode == "away":
            raise RedisAwayError
        yield None
        if self.mode == "slow":  # has taken them, but its answer does not come in time
            raise RedisAwayError

    def send(self, producer, job):
        self.messages.append({"task": job.task, **job.message["headers"]})


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


# --- The machine -------------------------------------------------------------------------------------------

some_worker = st.integers(0, 2)
somewhere = st.integers(0, 100)


class Jobs(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        with connection.cursor() as cursor:
            cursor.execute("TRUNCATE celeriac_job, effects")
        bag.__init__()
        self.reconciler = Reconciler(current_app)
        self.reconciler.postgres_since = -1000.0
        self.committed, self.may_end, self.read = {}, set(), []
        self.before = {}

    # --- Enqueue

    @rule(task=st.sampled_from([atomic, not_atomic]), committed=st.sampled_from([True, True, True, False]))
    def enqueue(self, task, committed):
        try:
            with transaction.atomic():
                sent = task.delay()
                if not committed:
                    raise ValueError
        except ValueError:
            return
        self.committed[sent.id] = task

    # --- Workers

    def live(self, index, *places):
        """The next worker that is at one of these places, counted from this one."""
        for worker in workers[index:] + workers[:index]:
            if worker.at in places:
                return worker
        return None

    @rule(index=some_worker, which=somewhere, kept=st.booleans())
    @precondition(lambda self: bag.messages)
    def fetch(self, index, which, kept):
        """``kept`` is a message that is delivered again later; any other is in this process alone."""
        if worker := self.live(index, "idle"):
            which %= len(bag.messages)
            message = bag.messages[which] if kept else bag.messages.pop(which)
            worker.tell(message)

    @rule(index=some_worker, order=st.sampled_from(["return", "return", "return", "fail", "retry", "lose Postgres"]))
    def go_on(self, index, order):
        worker = self.live(index, "fetched", "in the body", "returned", "failed")
        if worker:
            self.step(worker, order)

    def step(self, worker, order):
        if worker.at == "in the body" and order in ("fail", "retry"):
            self.may_end.add(worker.request.id)  # the fourth retry is a failure, too
        with self.no_stale_write(worker):
            worker.tell(order)

    @rule(index=some_worker, kept=st.booleans(), restarted=st.booleans())
    def worker_is_killed(self, index, kept, restarted):
        if worker := self.live(index, "fetched", "in the body", "returned", "failed"):
            worker.tell("die")
            if kept:
                bag.messages.append(worker.message)
            if restarted:
                leases.release(worker.hostname)

    @rule(index=some_worker)
    def child_is_killed(self, index):
        """Out of memory: Celery's main process asks for the next attempt, as ``task_retry_on_worker_lost`` says."""
        if worker := self.live(index, "in the body", "returned", "failed"):
            task, request = current_app.tasks[worker.message["task"]], main_process(worker)
            with self.no_stale_write(worker):
                worker.tell("die")
                if request.retries < task.max_retries:
                    task.signature_from_request(request, countdown=0, retries=request.retries + 1).apply_async()
                else:
                    self.may_end.add(request.id)
                    execution.end(request, "failed", "WorkerLostError")

    @rule(index=some_worker)
    def time_limit(self, index):
        if worker := self.live(index, "in the body"):
            self.may_end.add(worker.request.id)
            with self.no_stale_write(worker):
                worker.tell("die")
                execution.end(main_process(worker), "failed", "TimeLimitExceeded")

    @rule(index=some_worker)
    def revoked_or_expired(self, index):
        if worker := self.live(index, "fetched"):
            self.may_end.add(worker.request.id)
            with self.no_stale_write(worker):
                worker.tell("die")
                execution.end(main_process(worker), "cancelled", "expired")

    @rule(index=some_worker)
    def sign_of_life(self, index):
        if worker := self.live(index, "in the body", "returned", "failed"):
            with connection.cursor() as cursor:
                cursor.execute(leases.RENEWED, [execution.LEASE, [worker.request.id], worker.hostname])

    # --- Time

    @rule()
    def leases_run_out(self):
        with connection.cursor() as cursor:
            cursor.execute(
                "UPDATE celeriac_job SET lease_until = now() - interval '1 second' WHERE lease_until > now()"
            )

    # --- Reconcilers

    @rule(suspicious=st.booleans())
    def reconcile(self, suspicious):
        self.reconciler.suspicious |= suspicious
        try:
            self.reconciler.look()
        except RedisAwayError:
            assert bag.mode != "there"

    @rule()
    def a_slow_reconciler_reads(self):
        self.read = list(Job.objects.raw(reconcile.DUE, [reconcile.PARK, 0, 100]))

    @rule()
    @precondition(lambda self: self.read and bag.mode == "there")
    def and_publishes_later(self):
        enqueue.publish(self.read)
        self.read = []

    # --- Redis

    @rule(mode=st.sampled_from(["there", "away", "slow"]))
    def redis_is(self, mode):
        bag.mode = mode

    @rule(event=st.sampled_from(["wipe", "save", "go back", "double"]))
    def redis_does(self, event):
        match event:
            case "wipe":
                bag.messages = []
            case "save":
                bag.saved = list(bag.messages)
            case "go back":
                bag.messages = list(bag.saved)
            case "double":
                bag.messages *= 1 + (len(bag.messages) < 6)

    # --- What has to be true

    @contextmanager
    def no_stale_write(self, worker):
        """A delivery whose claim is not the last one, or that came while another one has it, changes nothing."""
        message, token = worker.message["id"], worker.token
        before = rows().get(message)
        yield
        stale = before and (before.held if token is None else before.token != token)
        if stale:
            assert rows()[message] == before, f"{worker.hostname} has token {token}, and wrote"

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
            assert row.token >= before.token and row.retries >= before.retries and row.crashes >= before.crashes
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
        for _ in range(12):
            self.leases_run_out()
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


def main_process(worker):
    """The request as Celery's main process knows it: without the claim that its child made."""
    task = current_app.tasks[worker.message["task"]]
    task.push_request(**worker.message, hostname=worker.hostname, called_directly=False, args=[], kwargs={})
    request = task.request_stack.top
    task.pop_request()
    return request


def rows():
    with connection.cursor() as cursor:
        cursor.execute(ROWS)
        return {row[0]: SimpleNamespace(**dict(zip(COLUMNS.split(), row, strict=True))) for row in cursor.fetchall()}


def effects():
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, count(*) FROM effects GROUP BY name")
        return dict(cursor.fetchall())


@pytest.fixture
def model(transactional_db, monkeypatch):
    monkeypatch.setattr(enqueue, "publisher", lambda: bag)
    monkeypatch.setattr(enqueue, "send", bag.send)
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


def test_whatever_happens_no_job_is_lost_and_each_has_one_effect(model):
    run_state_machine_as_test(
        Jobs,
        settings=settings(
            max_examples=80, stateful_step_count=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
        ),
    )
