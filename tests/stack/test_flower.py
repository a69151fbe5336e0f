"""Flower behind nginx: behind its password, read-only, with a memory."""

import json
from typing import Any

import pytest

from tests.stack.project import Stack
from tests.stack.visitor import Visitor
from tests.waiting import eventually

pytestmark = pytest.mark.stack

TASK = "config.tasks.debug_task"


def tasks(stack: Stack) -> dict[str, Any]:
    answer = stack.flower_user().get("/api/tasks?limit=1000")
    return json.loads(answer.text) if answer.status == 200 else {}


def test_flower_answers_with_its_password_only(stack: Stack) -> None:
    user, password = stack.credentials()["Flower"]
    assert Visitor(stack.flower).get("/").status == 401
    assert Visitor(stack.flower, user, "wrong").get("/").status == 401
    assert Visitor(stack.flower).get("/api/workers").status == 401
    assert Visitor(stack.flower, user, password).get("/workers").status == 200


@pytest.mark.parametrize(
    "path",
    ["/metrics", "/healthcheck", "//metrics", "/METRICS", "/metrics/", "/./metrics", "/%6detrics", "/x/../healthcheck"],
)
def test_what_flower_leaves_open_nginx_closes(stack: Stack, path: str) -> None:
    assert Visitor(stack.flower).get(stack.flower + path).status in {401, 404}
    assert stack.flower_user().get(stack.flower + path).status == 404


def test_flower_shows_both_workers_and_each_task(stack: Stack) -> None:
    sent = {stack.send(TASK): "default", stack.send(TASK, queue="heavy_tasks"): "heavy_tasks"}
    for task_id, queue in sent.items():
        eventually(lambda id=task_id: tasks(stack).get(id, {}).get("state") == "SUCCESS", what="Flower has seen it")
        task = tasks(stack)[task_id]
        assert task["name"] == TASK
        assert task["worker"].startswith(f"{queue}@")
    workers = stack.flower_user().get("/workers").text
    assert "default@" in workers
    assert "heavy_tasks@" in workers
    assert TASK in stack.flower_user().get(f"/task/{task_id}").text


def test_flowers_history_outlives_a_restart(stack: Stack) -> None:
    task_id = stack.send(TASK)
    eventually(lambda: tasks(stack).get(task_id, {}).get("state") == "SUCCESS")
    stack.compose("restart", "flower")
    stack.healthy()
    assert tasks(stack)[task_id]["name"] == TASK


def test_flower_may_look_and_nothing_else(stack: Stack) -> None:
    flower, (worker,) = stack.flower_user(), stack.ids("worker")
    name = f"default@{worker[:12]}"
    before = stack.results("true")
    for path in (
        f"/api/task/async-apply/{TASK}",
        f"/api/task/send-task/{TASK}",
        f"/api/worker/shutdown/{name}",
        f"/api/worker/pool/shrink/{name}?n=1",
        f"/api/worker/queue/cancel-consumer/{name}?queue=default",
    ):
        assert flower.request(path, b"{}").status in {403, 405}, path
    assert stack.container("worker")["State"]["Running"]
    assert stack.results("true") == before
