"""A broker that goes away costs no worker, no running task and no message."""

import signal
import time

import pytest

from tests.tasks import retries, work
from tests.waiting import eventually


def unacked(broker) -> int:
    """In progress, by our transport or by kombu's."""
    return broker.command("HLEN", "unacked.default") + broker.command("HLEN", "unacked")


@pytest.mark.parametrize("transport", ["", "redis"])
def test_a_redis_restart_under_a_running_task_costs_neither_the_worker_nor_a_second_run(
    broker, start_worker, notes, transport
):
    worker = start_worker("-c", "1", CELERY_BROKER_TRANSPORT=transport)
    broker.send(work, notes.path, "long", 10)
    eventually(lambda: "long began" in notes())

    broker.stop()
    broker.start()
    broker.send(work, notes.path, "next")

    eventually(lambda: "next ended" in notes())
    assert worker.process.poll() is None
    assert notes() == ["long began", "long ended", "next began", "next ended"]
    # Acknowledged through the new connection: nothing is left to be delivered again later.
    eventually(lambda: unacked(broker) == 0)


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_a_task_that_ends_while_redis_is_away_is_acknowledged_and_not_run_again(broker, start_worker, notes, pool):
    worker = start_worker("-P", pool, "-c", "1")
    broker.send(work, notes.path, "short", 10)
    eventually(lambda: "short began" in notes())

    broker.stop()
    eventually(lambda: "short ended" in notes())
    broker.start()
    broker.send(work, notes.path, "next")

    eventually(lambda: "next ended" in notes())
    assert worker.process.poll() is None
    assert notes() == ["short began", "short ended", "next began", "next ended"]
    eventually(lambda: unacked(broker) == 0)


def test_a_retry_that_falls_while_redis_is_away_is_made_when_it_is_back(broker, start_worker, notes):
    start_worker("-c", "1")
    broker.send(retries, notes.path, 3)
    eventually(lambda: notes() == ["attempt 0"])

    broker.stop()
    time.sleep(5)  # the retry is queued meanwhile, in vain
    broker.start()

    eventually(lambda: "done" in notes())
    eventually(lambda: unacked(broker) == 0)


def test_a_message_fetched_but_not_started_goes_back_after_a_reconnect(broker, start_worker, notes):
    start_worker("-c", "1", CELERY_WORKER_POOL="prefork", CELERY_WORKER_PREFETCH_MULTIPLIER="4")
    broker.send(work, notes.path, "long", 10)
    eventually(lambda: "long began" in notes())
    for name in ("second", "third"):
        broker.send(work, notes.path, name)
    eventually(lambda: unacked(broker) == 3)

    broker.stop()
    broker.start()

    eventually(lambda: sum(line.endswith("ended") for line in notes()) == 3)
    assert sorted(notes()) == sorted(f"{n} {did}" for n in ("long", "second", "third") for did in ("began", "ended"))
    eventually(lambda: unacked(broker) == 0)


def test_a_frozen_redis_is_waited_for_and_the_work_goes_on(broker, start_worker, notes):
    options = '{"socket_timeout": 1}'
    worker = start_worker("-c", "1", CELERY_BROKER_TRANSPORT_OPTIONS=options, QUICK_HEARTBEAT="true")
    broker.process.send_signal(signal.SIGSTOP)
    time.sleep(15)  # longer than a worker that does not beat has to live
    broker.process.send_signal(signal.SIGCONT)

    broker.send(work, notes.path, "after")

    eventually(lambda: "after ended" in notes())
    assert worker.process.poll() is None
    eventually(worker.alive)
