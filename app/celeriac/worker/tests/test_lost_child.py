"""A child that is killed, by the kernel when memory runs out for one, loses no task and starts no endless loop."""

from django_celery_results.models import TaskResult

from tests.tasks import dies
from tests.waiting import eventually


def test_a_task_whose_child_was_killed_is_tried_again(broker, start_worker, notes):
    worker = start_worker("-c", "1")

    result = broker.send(dies, notes.path, 1)

    eventually(lambda: "ended" in notes())
    assert notes() == ["began", "began", "ended"]
    eventually(lambda: TaskResult.objects.filter(task_id=result.id, status="SUCCESS").exists())
    assert worker.process.poll() is None


def test_a_task_that_kills_every_child_stops_after_its_retries_and_is_shown_as_failed(broker, start_worker, notes):
    start_worker("-c", "1")

    result = broker.send(dies, notes.path, 99)

    eventually(lambda: TaskResult.objects.filter(task_id=result.id, status="FAILURE").exists())
    assert notes() == ["began"] * 3  # once, and max_retries=2
    assert "WorkerLostError" in TaskResult.objects.get(task_id=result.id).result
    eventually(lambda: broker.command("HLEN", "unacked.default") + broker.command("LLEN", "default") == 0)
