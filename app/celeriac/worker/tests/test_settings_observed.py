"""What the settings that people change most do to a real worker; each is given as a variable of the environment."""

import json
import pickle
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from celery import current_app
from django.utils import timezone
from django_celery_results.models import TaskResult

from config.tasks import debug_task
from tests.processes import ROOT, run
from tests.tasks import child, clocks, stubborn, work
from tests.waiting import eventually

#: No limit travels in the message, as from a program that has none: the worker's own holds.
NO_LIMITS = {"time_limit": None, "soft_time_limit": None}


def result_of(sent, *states):
    """The row of a result as soon as it has one of these states."""
    return eventually(lambda: TaskResult.objects.filter(task_id=sent.id, status__in=states or ["SUCCESS"]).first())


def messages(broker):
    """How many messages the broker holds, waiting or not yet acknowledged."""
    return broker.command("LLEN", "default") + broker.command("HLEN", "unacked.default")


def send_elsewhere(broker, task, *args, **variables):
    """Send a task from another process, which has these variables."""
    code = f"import django; django.setup(); from tests.tasks import {task}; {task}.delay(*{args!r})"
    done = run(
        *(sys.executable, "-c", code),
        DJANGO_SETTINGS_MODULE="config.settings",
        PYTHONPATH=f"{ROOT}:{ROOT / 'app'}",
        CELERY_BROKER_URL=broker.url,
        **variables,
    )
    assert done.returncode == 0, done.stderr


# --- Time limits -------------------------------------------------------------------------------------------


def test_a_task_has_25_minutes_and_then_five_more_unless_its_sender_has_other_limits(broker, start_worker, notes):
    start_worker("-c", "1")

    request = json.loads(result_of(broker.send(debug_task)).result)
    send_elsewhere(broker, "stubborn", notes.path, CELERY_TASK_SOFT_TIME_LIMIT="3", CELERY_TASK_TIME_LIMIT="8")

    assert request["timelimit"] == [30 * 60, 25 * 60]
    eventually(lambda: TaskResult.objects.filter(status="FAILURE", result__contains="TimeLimitExceeded").exists())
    assert notes() == ["began", "soft limit"]


def test_the_soft_limit_tells_a_task_and_the_hard_one_ends_it(broker, start_worker, notes):
    worker = start_worker("-c", "1", CELERY_TASK_SOFT_TIME_LIMIT="3", CELERY_TASK_TIME_LIMIT="8")

    sent = broker.send(stubborn, notes.path, **NO_LIMITS)

    assert "TimeLimitExceeded" in result_of(sent, "FAILURE").result
    assert notes() == ["began", "soft limit"]
    eventually(lambda: messages(broker) == 0)  # and so it is not run again
    assert worker.process.poll() is None


# --- Results -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("variable", "states"), [("true", ["STARTED", "SUCCESS"]), ("false", ["SUCCESS"])])
def test_track_started_shows_that_a_task_runs(broker, start_worker, notes, variable, states):
    start_worker("-c", "1", CELERY_TASK_TRACK_STARTED=variable)
    sent = broker.send(work, notes.path, "long", 5)
    eventually(lambda: notes() == ["long began"], every=0.05)
    seen = set()

    def look():
        seen.update(TaskResult.objects.filter(task_id=sent.id).values_list("status", flat=True))
        return "SUCCESS" in seen

    eventually(look, every=0.1)
    assert sorted(seen) == states


def test_results_expire_after_result_expires(broker, start_worker):
    start_worker("-c", "1", CELERY_RESULT_EXPIRES="3600")
    for name, minutes in {"older": 61, "younger": 59}.items():
        TaskResult.objects.create(task_id=name)
        TaskResult.objects.filter(task_id=name).update(date_done=timezone.now() - timedelta(minutes=minutes))

    broker.send(current_app.tasks["celery.backend_cleanup"])

    eventually(lambda: not TaskResult.objects.filter(task_id="older").exists())
    assert TaskResult.objects.filter(task_id="younger").exists()


# --- Content -----------------------------------------------------------------------------------------------


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_only_json_is_read_and_anything_else_is_dropped_unread(broker, start_worker, notes, tmp_path):
    touched = tmp_path / "touched"
    pickled = pickle.dumps([[Evil(touched)], {}, {}])
    pickle.loads(pickled)
    assert touched.exists()  # so it would
    touched.unlink()
    yaml = f"[[!!python/object/apply:os.mkdir ['{touched}']], {{}}, {{}}]".encode()
    headers = {"task": "tests.tasks.work", "id": "by hand"}
    worker = start_worker("-c", "1")
    with broker.connection() as connected, connected.Producer(routing_key="default") as producer:
        for body, kind in [(pickled, "application/x-python-serialize"), (yaml, "application/x-yaml")]:
            for protocol in (headers, {}):  # 2 and 1
                producer.publish(body, content_type=kind, content_encoding="binary", headers=protocol)

    broker.send(work, notes.path, "json")

    eventually(lambda: "json ended" in notes())
    eventually(lambda: messages(broker) == 0)
    assert not touched.exists()
    assert worker.process.poll() is None


# --- Children ----------------------------------------------------------------------------------------------


def test_as_many_tasks_run_at_once_as_worker_concurrency_says(broker, start_worker, notes):
    start_worker(CELERY_WORKER_CONCURRENCY="3")
    for n in range(7):
        broker.send(work, notes.path, str(n), 1)
    eventually(lambda: sum("ended" in line for line in notes()) == 7)

    running, most = 0, 0
    for line in notes():
        running += 1 if "began" in line else -1
        most = max(most, running)
    assert most == 3


# A replacement may take five seconds, billiard's clock for looking after its children; so one has to do.
def test_a_child_is_replaced_after_max_tasks_per_child(broker, start_worker, notes):
    start_worker("-c", "1", CELERY_WORKER_MAX_TASKS_PER_CHILD="2")
    for _ in range(3):
        broker.send(child, notes.path)

    first, second, third = eventually(lambda: len(notes()) == 3 and notes())

    assert first == second != third


def test_a_child_that_grew_above_max_memory_per_child_is_replaced_after_its_task(broker, start_worker, notes):
    start_worker("-c", "1", CELERY_WORKER_MAX_MEMORY_PER_CHILD="500000")  # KiB
    for megabytes in (300, 500, 1):  # the first is more than the default allows
        broker.send(child, notes.path, megabytes)

    below, above, after = eventually(lambda: len(notes()) == 3 and notes())

    assert below == above != after


# --- Time zone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "clock"),
    [
        ("TIME_ZONE", {"celery": "+0545", "django": "+0545", "system": "+0545"}),
        ("CELERY_TIMEZONE", {"celery": "+0545", "django": "+0000", "system": "+0000"}),
    ],
)
def test_tasks_live_in_the_time_zone_that_was_set(broker, start_worker, variable, clock):
    start_worker("-c", "1", **{variable: "Asia/Kathmandu"})

    assert json.loads(result_of(broker.send(clocks)).result) == clock
