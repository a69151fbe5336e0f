"""Two queues, each read by its own workers; a third name is a mistake that is named when it is made."""

import json

import pytest

from tests.stack.project import Stack

pytestmark = pytest.mark.stack

SERVICE_OF = {"default": "worker", "heavy_tasks": "worker-heavy"}


@pytest.mark.parametrize("queue", SERVICE_OF)
def test_a_task_is_run_by_the_worker_of_its_queue(stack: Stack, queue: str) -> None:
    result = stack.result(stack.send("config.tasks.debug_task", queue=queue))
    ran = json.loads(json.loads(result["result"])) if result["result"].startswith('"') else json.loads(result["result"])
    (container,) = stack.ids(SERVICE_OF[queue])
    assert ran["queue"] == queue
    assert ran["hostname"] == result["worker"] == f"{queue}@{container[:12]}"


def test_a_task_without_a_queue_goes_to_the_default_one(stack: Stack) -> None:
    assert stack.result(stack.send("config.tasks.debug_task"))["worker"].startswith("default@")


def test_a_task_named_heavy_is_routed_to_the_heavy_queue(stack: Stack) -> None:
    routed = stack.python("print(app.amqp.router.route({}, 'shop.tasks.heavy_import')['queue'].name)")
    assert routed.strip() == "heavy_tasks"


def test_an_unknown_queue_is_refused_when_the_task_is_sent(stack: Stack) -> None:
    with pytest.raises(AssertionError, match="QueueNotFound"):
        stack.send("config.tasks.debug_task", queue="typo")
