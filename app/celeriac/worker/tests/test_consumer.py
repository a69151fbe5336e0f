"""A broker that goes away costs no worker, no running task and no message."""

import signal
import time

from tests.tasks import work
from tests.waiting import eventually


def unacked(broker) -> int:
    return broker.command("HLEN", "unacked")


def test_a_redis_restart_under_a_running_task_costs_neither_the_worker_nor_a_second_run(broker, start_worker, notes):
    worker = start_worker("-c", "1")
    broker.send(work, notes.path, "long", 5)
    eventually(lambda: "long began" in notes())

    broker.stop()
    broker.start()
    broker.send(work, notes.path, "next")

    eventually(lambda: "next ended" in notes())
    assert worker.process.poll() is None
    assert notes() == ["long began", "long ended", "next began", "next ended"]
    # Acknowledged through the new connection: nothing is left to be delivered again later.
    eventually(lambda: unacked(broker) == 0, 10)


def test_a_message_fetched_but_not_started_goes_back_after_a_reconnect(broker, start_worker, notes):
    start_worker("-c", "1", CELERY_WORKER_PREFETCH_MULTIPLIER="4")
    broker.send(work, notes.path, "long", 4)
    eventually(lambda: "long began" in notes())
    for name in ("second", "third"):
        broker.send(work, notes.path, name)
    eventually(lambda: unacked(broker) == 3)

    broker.stop()
    broker.start()

    eventually(lambda: sum(line.endswith("ended") for line in notes()) == 3)
    assert sorted(notes()) == sorted(f"{n} {did}" for n in ("long", "second", "third") for did in ("began", "ended"))
    eventually(lambda: unacked(broker) == 0, 10)


def test_a_frozen_redis_is_waited_for_and_the_work_goes_on(broker, start_worker, notes):
    worker = start_worker("-c", "1", CELERY_BROKER_TRANSPORT_OPTIONS='{"socket_timeout": 1}')
    broker.process.send_signal(signal.SIGSTOP)
    time.sleep(15)  # longer than a worker that does not beat has to live
    broker.process.send_signal(signal.SIGCONT)

    broker.send(work, notes.path, "after")

    eventually(lambda: "after ended" in notes(), 60)
    assert worker.process.poll() is None
    assert worker.alive()
