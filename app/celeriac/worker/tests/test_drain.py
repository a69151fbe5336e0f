"""A worker that is told to stop loses nothing: what runs finishes or goes back to its queue."""

import signal
import time

from tests.tasks import work
from tests.waiting import eventually


def test_a_stopping_worker_is_gone_as_soon_as_its_last_task_is(broker, start_worker, notes):
    worker = start_worker("-c", "1", CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT="60")
    broker.send(work, notes.path, "running", 3)
    eventually(lambda: "running began" in notes())
    started = time.monotonic()

    worker.signal(signal.SIGTERM)

    assert worker.process.wait(90) == 0
    assert notes() == ["running began", "running ended"]
    assert time.monotonic() - started < 45  # stock sleeps its whole soft timeout
    assert broker.command("HLEN", "unacked.default") == 0


def test_a_task_longer_than_the_drain_goes_back_to_its_queue_and_runs_elsewhere(broker, start_worker, notes, tmp_path):
    over = tmp_path / "over"
    worker = start_worker("-c", "2", CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT="6")
    broker.send(work, notes.path, "short", 1)
    broker.send(work, notes.path, "long", 0, str(over))
    eventually(lambda: {"short began", "long began"} <= set(notes()))

    worker.signal(signal.SIGTERM)

    worker.process.wait(90)
    assert broker.command("LLEN", "default") == 1
    assert broker.command("HLEN", "unacked.default") == 0
    over.touch()
    start_worker("-c", "1")
    eventually(lambda: "long ended" in notes())
    assert [line for line in notes() if line.startswith("short")] == ["short began", "short ended"]
    assert notes().count("long ended") == 1


def test_what_was_fetched_but_not_started_goes_back_at_once(broker, start_worker, notes):
    variables = {"CELERY_WORKER_PREFETCH_MULTIPLIER": "4", "CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT": "60"}
    worker = start_worker("-c", "1", CELERY_WORKER_POOL="prefork", **variables)
    broker.send(work, notes.path, "running", 10)
    eventually(lambda: "running began" in notes())
    for _ in range(3):
        broker.send(work, notes.path, "waiting")
    eventually(lambda: broker.command("HLEN", "unacked.default") == 4)

    worker.signal(signal.SIGTERM)

    assert worker.process.wait(90) == 0
    assert notes() == ["running began", "running ended"]
    assert broker.command("LLEN", "default") == 3


def test_an_idle_worker_stops_at_once(broker, start_worker):
    worker = start_worker("-c", "1")
    worker.signal(signal.SIGTERM)
    assert worker.process.wait(45) == 0
    assert "Traceback" not in worker.log.read_text()


def test_threads_drain_too(broker, start_worker, notes):
    worker = start_worker("-P", "threads", "-c", "2")
    broker.send(work, notes.path, "running", 2)
    eventually(lambda: "running began" in notes())

    worker.signal(signal.SIGTERM)

    worker.process.wait(90)
    assert notes() == ["running began", "running ended"]
    assert broker.command("HLEN", "unacked.default") == 0


def test_a_worker_that_waits_for_its_broker_stops_when_told(broker, start_worker):
    worker = start_worker("-c", "1")
    broker.stop()
    eventually(lambda: "Trying again in" in worker.log.read_text())

    worker.signal(signal.SIGTERM)

    assert worker.process.wait(45) == 0
