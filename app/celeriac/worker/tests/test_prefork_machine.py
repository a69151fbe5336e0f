"""Whatever tasks and workers do, in whatever order: no message leaves Redis before its result is stored, what a dead
worker held comes back, and a batch is never more than a moment's work.

The main process's part is the pool's own; the child's is ``celeriac.worker.batch``, run in this process, so that the
main process can be asked to look, or either one to die, at any moment in between.
"""

import json
import math
import time
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from billiard.einfo import ExceptionInfo
from billiard.exceptions import WorkerLostError
from celery import bootsteps, shared_task
from celery.app.trace import build_tracer
from celery.worker import state
from django_celery_results.models import TaskResult
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from kombu.asynchronous.semaphore import LaxBoundedSemaphore

from celeriac import transport
from celeriac.transport import index_key, unacked_key
from celeriac.worker import batch, prefork, slots
from celeriac.worker.prefork import AHEAD, MOST, SLOW, Batches

pytestmark = pytest.mark.django_db(transaction=True)

QUEUE, CHILDREN = "default", 2
#: What a task does, the first time that it runs; after that it ends well.
QUICK, FAILS, TAKES_20_MS, IS_SLOW, KILLS_ITS_CHILD, WORKER_STOPS, WORKER_DIES = range(7)
PLANS = st.sampled_from(
    [QUICK] * 20 + [FAILS, TAKES_20_MS, IS_SLOW, IS_SLOW, KILLS_ITS_CHILD, WORKER_STOPS, WORKER_DIES]
)
#: When a child dies that has run all of its batch.
NEVER, BEFORE_IT_STORES, AFTER_IT_STORED = range(3)


class KilledError(BaseException):
    """SIGKILL."""


class Clock:
    """The pool's and the child's; it moves when a task says so."""

    now = 1000.0
    time = staticmethod(time.time)

    def monotonic(self):
        return self.now


@shared_task(name="machine.step", default_retry_delay=0, max_retries=None)  # after the death of its child, at once
def step(name):
    Machine.current.step(name)


class Machine(RuleBasedStateMachine):
    """One worker after the other; what is declared here is set by the test."""

    current: Any
    app: Any
    broker: Any
    clock: Any

    @initialize()
    def start(self):
        Machine.current = self
        self.clock.now = Clock.now
        #: Task -> what it will do.
        self.plans: dict[str, int] = {}
        self.names: list[str] = []
        #: Of each slow task, when the main process has looked: whether its batch is settled, and the size of the next.
        self.slow: list[tuple[bool, int]] = []
        self.start_worker()
        self.client.flushall()

    def start_worker(self):
        transport._process = f"worker-{uuid4()}"
        self.connection = self.broker.connection()
        self.channel = self.connection.channel()
        self.channel.connection.cycle.loop = True  # an event loop turns: acknowledgements wait for the next fetch
        self.channel._queue_cycle.update([QUEUE])
        self.channel._active_queues = [QUEUE]
        self.client = self.channel._create_client()
        self.dead = self.stopping = False
        pool = SimpleNamespace(num_processes=CHILDREN, apply_async=self.apply_async)
        pool._pool = SimpleNamespace(timeout=None, soft_timeout=None, _cache={})
        controller = SimpleNamespace(
            semaphore=LaxBoundedSemaphore(CHILDREN),
            autoscaler=None,
            max_tasks_per_child=None,
            wait_for_soft_shutdown=lambda: None,
        )
        self.consumer = SimpleNamespace(
            app=self.app,
            pool=pool,
            controller=controller,
            task_consumer=SimpleNamespace(channel=self.channel),
            hub=object(),
            steps=[],
            timer=SimpleNamespace(call_repeatedly=lambda *args: None),
            hostname="worker",
            event_dispatcher=None,
            connection_errors=self.connection.connection_errors,
            task_buckets={step.name: None},
            blueprint=SimpleNamespace(state=bootsteps.RUN),
        )
        self.batches = Batches(self.consumer)
        self.batches.start(self.consumer)

    def apply_async(self, target, arguments, **callbacks):
        assert target is batch.run
        return SimpleNamespace(arguments=arguments, _job=0, **callbacks)

    # --- What happens ----------------------------------------------------------------------------------------

    @rule(plans=st.lists(PLANS, min_size=1, max_size=30))
    def publish(self, plans):
        for plan in plans:
            self.names.append(str(uuid4()))
            self.plans[self.names[-1]] = plan
            step.apply_async([self.names[-1]], task_id=self.names[-1])

    @rule()
    def fetch(self):
        size, free, before = self.batches.size, self.batches.free_children(), list(self.batches.batches)
        if room := self.channel.room():
            self.channel.deliver(self.channel.fetch([QUEUE], room))
        given = [each for each in self.batches.batches if each not in before]
        assert len(given) <= free
        assert all(len(each.messages) <= size for each in given)

    @precondition(lambda self: self.given())
    @rule(
        which=st.integers(0, CHILDREN - 1),
        dies=st.sampled_from([NEVER, NEVER, BEFORE_IT_STORES, AFTER_IT_STORED]),
        most=st.sampled_from([math.inf, math.inf, 1, 3]),
    )
    def run(self, which, dies, most):
        """A child takes a batch, and is through with it, or has run as many tasks as it may, or dies."""
        given = self.given()
        self.run_batch(given[which % len(given)], dies, most)

    @rule(times=st.integers(1, 6))
    def work(self, times):
        """So that batches grow."""
        for _ in range(times):
            self.fetch()
            for each in self.given():
                if each in self.given():  # the worker may have ended
                    self.run_batch(each)

    @precondition(lambda self: self.given())
    @rule(stops=st.booleans())
    def end(self, stops):
        """While children have work."""
        self.stop() if stops else self.die()

    def die(self):
        """The worker, with its children."""
        self.channel.queue_of.clear()  # what it would say, it does not
        self.channel.acknowledged.clear()
        self.end_worker()

    def stop(self):
        self.say_stop()
        self.batches.shutdown(self.consumer)
        self.end_worker()

    @rule()
    def time_passes(self):
        """The visibility timeout of workers that are dead; who is alive renews."""
        held = [tag.decode() for tag in self.client.zrange(index_key(QUEUE), 0, -1)]
        if orphans := set(held) - self.channel.queue_of.keys() - set(self.channel.acknowledged):
            self.client.zadd(index_key(QUEUE), dict.fromkeys(orphans, 0))
        self.channel.renew()
        self.channel.restore_silent()

    # --- In the middle of a batch ----------------------------------------------------------------------------

    def run_batch(self, each, dies=NEVER, most=math.inf):
        self.running, self.dies, self.ran = each, dies, 0
        batch.left = most - 1  # the pool has counted one
        size, job = self.batches.size, each.job
        job.accept_callback(1, self.clock.now)
        try:
            said = batch.run(*job.arguments)
        except KilledError:
            batch.running.batch = None
            if not self.dead:
                job.error_callback(killed())
        else:
            assert self.ran == min(most, sum(count for count, _ in said[0].values()))
            job.callback(said)
            assert 1 <= self.batches.size <= min(2 * size, MOST)
            assert self.batches.size <= max(1, AHEAD / self.batches.pace)
        if self.dead:
            self.die()
        elif self.stopping:
            self.batches.shutdown(self.consumer)
            self.end_worker()

    def step(self, name):
        plan, self.plans[name] = self.plans[name], QUICK
        self.ran += 1
        if plan == FAILS:
            raise ValueError(name)
        if plan == TAKES_20_MS:
            self.clock.now += 0.02
        if plan == IS_SLOW:
            self.clock.now += SLOW + 0.01
            self.batches.look()
            self.slow.append((self.running.settled, self.batches.size))
        if plan == WORKER_STOPS and not self.stopping:
            self.say_stop()
        if plan == WORKER_DIES:
            self.dead = True
        if plan in (KILLS_ITS_CHILD, WORKER_DIES):
            raise KilledError

    def store(self, child, store):
        if self.dies == BEFORE_IT_STORES:
            raise KilledError
        store(child)
        if self.dies == AFTER_IT_STORED:
            raise KilledError

    def say_stop(self):
        self.stopping, self.consumer.blueprint.state = True, bootsteps.CLOSE
        self.batches.stop(self.consumer)

    def end_worker(self):
        self.channel.flush()
        self.channel.queue_of.clear()
        self.connection.release()
        for requests in (state.reserved_requests, state.active_requests, state.requests):
            requests.clear()
        self.start_worker()

    # --- What holds ------------------------------------------------------------------------------------------

    def given(self):
        """Batches that wait for their child."""
        return [each for each in self.batches.batches if each.job and not each.over]

    def in_redis(self):
        waiting = self.client.lrange(QUEUE, 0, -1)
        held = [raw.partition(b"\n")[2] for raw in self.client.hvals(unacked_key(QUEUE))]
        return [json.loads(raw)["headers"]["id"] for raw in waiting + held]

    @invariant()
    def what_is_not_in_redis_has_its_result(self):
        if not hasattr(self, "client"):
            return
        ended = TaskResult.objects.filter(task_id__in=self.names, status__in=("SUCCESS", "FAILURE"))
        assert set(self.names) - set(self.in_redis()) <= set(ended.values_list("task_id", flat=True))

    @invariant()
    def a_slow_task_holds_nothing_and_the_next_one_comes_alone(self):
        assert set(getattr(self, "slow", ())) <= {(True, 1)}

    @invariant()
    def no_slot_is_lost(self):
        if hasattr(self, "batches"):
            assert len(self.batches.free_slots) + len(self.batches.batches) == len(batch.slots)

    def teardown(self):
        """Whatever was before, what is left runs."""
        if not hasattr(self, "client"):
            return
        self.plans = dict.fromkeys(self.names, QUICK)
        for _ in range(len(self.names) + 3):
            self.time_passes()
            self.work(1)
            self.channel.flush()
        assert self.in_redis() == []
        self.what_is_not_in_redis_has_its_result()
        self.connection.release()


def killed():
    try:
        raise WorkerLostError("signal 9 (SIGKILL)")
    except WorkerLostError:
        return ExceptionInfo()


@pytest.fixture
def machine(app, broker, monkeypatch):
    class OnThisBroker(Machine):
        pass

    OnThisBroker.app, OnThisBroker.broker, OnThisBroker.clock = app, broker, Clock()
    real = batch.Batch.store
    monkeypatch.setattr(batch.Batch, "store", lambda child: Machine.current.store(child, real))
    monkeypatch.setattr(batch, "left", math.inf)
    monkeypatch.setattr(batch, "slots", slots.make_slots(CHILDREN + 1))
    monkeypatch.setattr(batch, "terminate_handler_fired", lambda: True)  # what is no Exception ends the child
    monkeypatch.setattr(transport, "_process", transport._process)
    for module in (batch, prefork):
        monkeypatch.setattr(module, "time", OnThisBroker.clock)
    step.__trace__ = build_tracer(step.name, step, app.loader, "worker", app=app)
    yield OnThisBroker
    Machine.current = None


def test_no_message_is_acknowledged_before_its_result_is_stored_and_none_is_lost(machine):
    run_machine(machine, settings=settings(max_examples=40, stateful_step_count=25, deadline=None))
