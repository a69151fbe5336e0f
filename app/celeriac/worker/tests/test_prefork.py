"""Batches: quick, and nothing else is different from the stock pool."""

import os
import signal
import threading
import time
from collections import Counter

import pytest
from django.db import transaction
from django_celery_results.models import TaskResult

from tests.tasks import child, dies, echo, ends, sleeps, stubborn, work
from tests.waiting import eventually

OURS, STOCK = "celeriac.worker.prefork:TaskPool", "prefork"


def left(broker):
    """Messages in the queue, and in progress."""
    return broker.command("LLEN", "default"), broker.command("HLEN", "unacked.default")


def done(results):
    return TaskResult.objects.filter(task_id__in=[result.id for result in results], status="SUCCESS").count()


def quick(notes, count, name="quick"):
    return [(work, notes.path, f"{name} {number}") for number in range(count)]


def test_every_task_of_many_runs_once_and_has_its_result(broker, start_worker, notes):
    results = broker.send_all(quick(notes, 600))

    start_worker("-c", "2")

    eventually(lambda: done(results) == 600)
    assert Counter(Counter(notes()).values()) == {1: 1200}
    eventually(lambda: left(broker) == (0, 0))


def test_what_comes_before_a_slow_task_is_stored_and_what_comes_after_it_runs_elsewhere(
    app, broker, start_worker, notes, tmp_path
):
    over = tmp_path / "over"
    first = broker.send_all(quick(notes, 100, "first"))
    (slow,) = broker.send_all([(work, notes.path, "slow", 0, str(over))])
    then = broker.send_all(quick(notes, 50, "then"))
    start_worker("-c", "1")

    eventually(lambda: "slow began" in notes())
    eventually(lambda: done(first) == 100)
    eventually(lambda: left(broker) == (50, 1))
    assert TaskResult.objects.get(task_id=slow.id).status == "STARTED"
    (active,) = app.control.inspect(timeout=20, limit=1).active().values()
    assert [task["id"] for task in active] == [slow.id]
    assert active[0]["worker_pid"] in child_pids(active)
    start_worker("-c", "1", "-n", "other@%h")
    eventually(lambda: done(then) == 50)

    assert "slow ended" not in notes()
    over.touch()
    eventually(lambda: done([slow]) == 1)
    assert Counter(Counter(notes()).values()) == {1: 302}


def child_pids(tasks):
    return {task["worker_pid"] for task in tasks if os.path.exists(f"/proc/{task['worker_pid']}")}


def test_a_child_that_dies_loses_no_task_but_its_own_which_is_tried_again(broker, start_worker, notes, tmp_path):
    deadly = str(tmp_path / "deadly")
    results = broker.send_all([*quick(notes, 60, "before"), (dies, deadly, 1), *quick(notes, 60, "after")])

    start_worker("-c", "1")

    eventually(lambda: done(results) == 121)
    assert Counter(Counter(notes()).values()) == {1: 240}, "the others ran once"
    with open(deadly) as runs:
        assert runs.read().splitlines() == ["began", "began", "ended"]


def test_both_time_limits_hold_for_a_task_in_the_middle_of_a_batch(broker, start_worker, notes, tmp_path):
    stubborn_notes = str(tmp_path / "stubborn")
    results = broker.send_all(quick(notes, 30, "before"))
    limited = broker.send(stubborn, stubborn_notes, soft_time_limit=3, time_limit=8)
    results += broker.send_all(quick(notes, 30, "after"))

    start_worker("-c", "1")

    failed = eventually(lambda: TaskResult.objects.filter(task_id=limited.id, status="FAILURE").first())
    eventually(lambda: done(results) == 60)
    with open(stubborn_notes) as lines:
        assert lines.read().splitlines() == ["began", "soft limit"]
    assert "TimeLimitExceeded" in failed.result
    assert Counter(Counter(notes()).values()) == {1: 120}
    eventually(lambda: left(broker) == (0, 0))


def test_a_hook_that_fails_does_not_spare_a_task_its_time_limit(broker, start_worker, notes, tmp_path):
    sleeper = str(tmp_path / "sleeper")
    limited = broker.send(sleeps, sleeper, 60, time_limit=2)
    start_worker("-c", "1")
    eventually(lambda: TaskResult.objects.filter(task_id=limited.id, status="FAILURE").exists())

    results = broker.send_all(quick(notes, 10))

    eventually(lambda: done(results) == 10)
    with open(sleeper) as lines:
        assert [line.partition(" in ")[0].strip() for line in lines] == ["began"]
    eventually(lambda: left(broker) == (0, 0))


def test_a_task_is_terminated_although_what_ran_before_it_could_not_be_stored_then(app, broker, start_worker, notes):
    worker = start_worker("-c", "1")
    warm = [echo.delay(number) for number in range(100)]
    eventually(lambda: done(warm) == 100)
    worker.signal(signal.SIGSTOP)  # so that it takes both together
    first, running = echo.delay(1), work.delay(notes.path, "running", 60)
    TaskResult.objects.create(task_id=first.id)
    with transaction.atomic():
        TaskResult.objects.select_for_update().get(task_id=first.id)
        worker.signal(signal.SIGCONT)
        eventually(lambda: notes() == ["running began"])
        assert app.control.revoke([running.id], terminate=True, reply=True, timeout=10)
        [child] = worker.children()
        assert "task_started" not in worker.log.read_text(), "its batch is not settled"

    eventually(lambda: child not in worker.children())
    eventually(lambda: TaskResult.objects.filter(task_id=running.id, status="REVOKED").exists())
    assert done([first]) == 1
    assert notes() == ["running began"]


def test_what_is_revoked_ends_or_never_begins_and_its_neighbours_run(app, broker, start_worker, notes):
    results = broker.send_all([*quick(notes, 20, "before"), (work, notes.path, "running", 30)])
    waiting = broker.send_all([(work, notes.path, "waiting"), *quick(notes, 20, "after")])
    start_worker("-c", "1")
    eventually(lambda: "running began" in notes())

    app.control.revoke([waiting[0].id], reply=True, timeout=1)
    app.control.revoke([results[20].id], terminate=True, reply=True, timeout=1)

    eventually(lambda: done(results) == 20 and done(waiting) == 20)
    assert "running ended" not in notes()
    revoked = TaskResult.objects.filter(task_id__in=[results[20].id, waiting[0].id], status="REVOKED")
    eventually(lambda: revoked.count() >= 1)
    eventually(lambda: left(broker) == (0, 0))


@pytest.mark.parametrize("how", ["fails", "cannot be pickled", "ignored", "rejected", "requeued", "retried", "exits"])
def test_a_task_ends_in_a_batch_as_in_the_stock_pool(broker, start_worker, notes, tmp_path, how):
    def run(pool, path):
        results = broker.send_all([*quick(notes, 10, f"{pool} 1"), (ends, path, how), *quick(notes, 10, f"{pool} 2")])
        worker = start_worker("-c", "1", CELERY_WORKER_POOL=pool)
        eventually(lambda: done(results) - (how in {"requeued", "retried"}) == 20)
        eventually(lambda: left(broker) == (0, 0))
        worker.signal(signal.SIGTERM)
        assert worker.process.wait(60) == 0
        row = (
            TaskResult.objects.exclude(status="STARTED").filter(task_id=results[10].id).first()
        )  # of one that is ignored
        with open(path) as runs:
            return row and (row.status, row.result, bool(row.traceback)), runs.read()

    assert run(OURS, str(tmp_path / "ours")) == run(STOCK, str(tmp_path / "stock"))
    assert Counter(Counter(notes()).values()) == {1: 80}


@pytest.mark.parametrize("backend", ["django-db", "redis"])
@pytest.mark.parametrize("value", [None, 1.5, 2**70, -(2**63), "text ✓ \x00", [1, {"a": [None]}], {"k": [1, 2]}])
def test_a_result_is_stored_as_the_stock_pool_stores_it(app, broker, start_worker, value, backend):
    kept = {}
    for pool in (OURS, STOCK):
        results = broker.send_all([(echo, value)] * 3)
        url = backend if backend == "django-db" else broker.url
        worker = start_worker("-c", "1", CELERY_WORKER_POOL=pool, CELERY_RESULT_BACKEND=url)
        kept[pool] = eventually(lambda results=results: stored(app, broker, backend, results[1].id))
        worker.signal(signal.SIGTERM)
        worker.process.wait(60)
    assert kept[OURS] == kept[STOCK]


def stored(app, broker, backend, task_id):
    if backend == "redis":
        text = broker.command("GET", f"celery-task-meta-{task_id}")
        meta = app.backend.decode(text) if text else {"status": ""}
        ended, differ = meta["status"] == "SUCCESS", {"date_done", "task_id"}
    else:
        meta = TaskResult.objects.filter(task_id=task_id, status="SUCCESS").values().first() or {}
        ended, differ = bool(meta), {"id", "task_id", "date_created", "date_started", "date_done"}
    return ended and {name: what for name, what in meta.items() if name not in differ}


def test_a_result_that_cannot_be_stored_costs_its_neighbours_nothing(broker, start_worker, notes):
    before, after = quick(notes, 10, "before"), quick(notes, 10, "after")
    results = broker.send_all(before)
    broker.send(work, notes.path, "too long", task_id="x" * 300)  # for the column of ids
    results += broker.send_all(after)

    start_worker("-c", "1")

    eventually(lambda: done(results) == 20)
    eventually(lambda: left(broker) == (0, 0))
    assert Counter(Counter(notes()).values()) == {1: 42}


def test_with_autoscaling_tasks_go_one_by_one_so_that_they_are_counted(app, broker, start_worker, notes):
    results = broker.send_all([(work, notes.path, str(number), 2) for number in range(8)])
    worker = start_worker("--autoscale", "4,1")

    eventually(lambda: len(worker.children()) >= 3)
    eventually(lambda: done(results) == 8)


def test_where_children_are_spawned_tasks_go_one_by_one(broker, start_worker, notes):
    results = broker.send_all(quick(notes, 5))
    start_worker("-c", "1", CELERY_WORKER_POOL_START_METHOD="spawn")

    eventually(lambda: done(results) == 5)
    eventually(lambda: left(broker) == (0, 0))


def test_a_child_is_replaced_after_so_many_tasks_not_batches(broker, start_worker, notes):
    results = broker.send_all([(child, notes.path)] * 100)

    start_worker("-c", "1", CELERY_WORKER_MAX_TASKS_PER_CHILD="10")

    eventually(lambda: done(results) == 100, 60)
    runs = Counter(notes())
    assert sum(runs.values()) == 100
    assert max(runs.values()) <= 10


def test_a_worker_that_stops_finishes_what_runs_and_leaves_the_rest_in_its_order(broker, start_worker, notes):
    calls = [*quick(notes, 30, "before"), (work, notes.path, "running", 4), *quick(notes, 30, "after")]
    results = broker.send_all(calls)
    worker = start_worker("-c", "1")
    eventually(lambda: "running began" in notes())

    worker.signal(signal.SIGTERM)

    assert worker.process.wait(90) == 0
    assert "Traceback" not in worker.log.read_text()
    assert done(results) == 31
    assert left(broker) == (30, 0)
    start_worker("-c", "1")
    eventually(lambda: done(results) == 61)
    after = [line for line in notes() if line.startswith("after") and line.endswith("began")]
    assert after == [f"after {number} began" for number in range(30)]
    assert Counter(Counter(notes()).values()) == {1: 122}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_has_to_stop_at_once_gives_back_what_runs(broker, start_worker, notes, how):
    results = broker.send_all([*quick(notes, 30), (work, notes.path, "running", 600), *quick(notes, 5, "after")])
    worker = start_worker("-c", "1", CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT="1")
    eventually(lambda: "running began" in notes(), every=0.01)

    worker.signal(how)

    worker.process.wait(90)
    assert "Traceback" not in worker.log.read_text()
    assert done(results) == 30
    assert left(broker) == (6, 0)


def test_a_connection_that_is_cut_again_and_again_costs_no_task_and_no_second_run(broker, start_worker, notes):
    results = broker.send_all([(work, notes.path, str(number), 0.01) for number in range(1500)])
    worker = start_worker("-c", "2")
    for part in (1, 2, 3):
        eventually(lambda part=part: len(notes()) > part * 500, every=0.01)
        broker.kick_everybody("")

    eventually(lambda: done(results) == 1500, 90)
    assert worker.process.poll() is None
    assert Counter(Counter(notes()).values()) == {1: 3000}
    eventually(lambda: left(broker) == (0, 0))


def test_a_worker_that_is_killed_with_its_children_loses_no_task(broker, start_worker, notes):
    options = '{"visibility_timeout": 3}'
    results = broker.send_all(quick(notes, 2000))
    worker = start_worker("-c", "2", CELERY_BROKER_TRANSPORT_OPTIONS=options)
    eventually(lambda: len(notes()) > 300, every=0.01)

    worker.signal(signal.SIGKILL)

    start_worker("-c", "2", CELERY_BROKER_TRANSPORT_OPTIONS=options)
    eventually(lambda: done(results) == 2000, 60)
    assert len(set(notes())) == 4000
    eventually(lambda: left(broker) == (0, 0))


def test_events_are_complete_at_ordinary_rates_and_say_how_many_they_leave_out_above(
    app, broker, start_worker, notes, watched
):
    start_worker("-c", "1")
    (slow, *few) = broker.send_all([(work, notes.path, "slow", 1), *quick(notes, 20)])
    eventually(lambda: {event["uuid"] for event in kind(watched, "task-succeeded")} == {slow.id, *(r.id for r in few)})
    for name in ("task-received", "task-started"):
        assert {event["uuid"] for event in kind(watched, name)} == {slow.id, *(r.id for r in few)}
    assert len({event["hostname"] for event in watched if event["type"] != "task-sent"}) == 1

    watched.clear()
    ids = work.delay_many([args for _, *args in quick(notes, 1500, "many")])  # in no time
    many = [app.AsyncResult(each) for each in ids]

    eventually(lambda: done(many) == 1500)
    (row,) = eventually(lambda: {event["name"] for event in kind(watched, "task-received") if "not" in event["name"]})
    assert row == "(not shown: more than 100 a second)"
    shown = {event["uuid"] for event in kind(watched, "task-succeeded")} & {result.id for result in many}
    assert 100 <= len(shown) < 1500


def kind(events, name):
    return [event for event in events if event["type"] == name]


@pytest.fixture
def watched(app, broker):
    """The events that somebody who watches has seen."""
    seen: list[dict] = []
    with broker.connection() as connection:
        receiver = app.events.Receiver(connection, handlers={"*": seen.append})
        thread = threading.Thread(target=receiver.capture, kwargs={"wakeup": False}, daemon=True)
        thread.start()
        time.sleep(0.5)  # subscribed
        yield seen
        receiver.should_stop = True
        thread.join(10)
