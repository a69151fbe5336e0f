"""The worker's probe tells the truth: green while it works or waits for its broker, red when it is stuck."""

import os
import signal
import time
from functools import partial

import pytest

from tests.tasks import deafen, dies, work
from tests.waiting import eventually


@pytest.fixture
def start_worker(start_worker):
    """With the clocks of tests/run_worker.py."""
    return partial(start_worker, QUICK_HEARTBEAT="true")


def stays_alive(worker, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and worker.alive():
        time.sleep(0.1)
    return worker.alive()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_the_probe_is_green_through_a_task_longer_than_its_patience(broker, start_worker, notes, pool):
    worker = start_worker("-P", pool, "-c", "1")
    broker.send(work, notes.path, "long", 9)
    eventually(lambda: "long began" in notes())

    assert stays_alive(worker, 8)
    eventually(lambda: "long ended" in notes())


def test_the_probe_is_green_while_the_broker_is_away(broker, start_worker, notes):
    worker = start_worker("-c", "1")
    broker.stop()

    assert stays_alive(worker, 10)
    broker.start()
    broker.send(work, notes.path, "after")
    eventually(lambda: "after ended" in notes())


def test_the_probe_turns_red_when_the_loop_stands_still_and_the_worker_ends_itself(broker, start_worker):
    # The task blocks the main process, which is where the consumer's loop turns with this pool; the time
    # limit it was given has passed, and nothing else would end it.
    worker = start_worker("-P", "solo")
    broker.send(work, str(worker.log.with_suffix(".notes")), "stuck", 60, time_limit=1, soft_time_limit=1)

    eventually(lambda: not worker.alive())
    assert eventually(worker.process.poll) == 1
    assert "Timeout" in worker.log.read_text()  # every thread's traceback says where it was stuck


def test_the_probe_turns_red_when_every_child_is_frozen_and_they_are_replaced(broker, start_worker, notes):
    worker = start_worker("-c", "2")
    frozen = worker.children()
    for child in frozen:
        os.kill(child, signal.SIGSTOP)

    eventually(lambda: not worker.alive())
    eventually(worker.alive)
    assert not set(frozen) & set(worker.children())
    broker.send(work, notes.path, "after")
    eventually(lambda: "after ended" in notes())


def test_a_child_that_does_not_take_its_task_is_replaced_and_the_task_is_run(broker, start_worker, notes):
    # Asleep in its own code, not stopped by the kernel: only the task it was given shows it.
    worker = start_worker("-c", "1")
    broker.send(deafen, notes.path)
    eventually(lambda: "deaf" in notes())
    time.sleep(4)

    broker.send(dies, notes.path, 0)

    eventually(lambda: not worker.alive())
    eventually(worker.alive)
    eventually(lambda: "ended" in notes())


def test_a_frozen_main_process_turns_red(broker, start_worker):
    worker = start_worker("-c", "1")
    worker.signal(signal.SIGSTOP)
    eventually(lambda: not worker.alive())
