"""More workers and fewer, under load."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.stack.project import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.stack

#: Sends short tasks and now and then one of five seconds, for about 25 seconds.
LOAD = """
import json, time
ids = []
for n in range(400):
    seconds = 5 if n % 25 == 0 else 0.02
    ids.append(app.send_task("tests.tasks.work", [{path!r}, f"task-{{n}}", seconds]).id)
    time.sleep(0.05)
print(json.dumps(ids))
"""


@pytest.fixture(autouse=True)
def _one_worker_afterwards(stack: Stack) -> Iterator[None]:
    yield
    stack.make("scale-workers", "N=1")
    stack.make("scale-workers", "N=1", "QUEUE=heavy_tasks")
    (stack.folder / ".env").unlink()


def running(stack: Stack, service: str) -> dict[str, str]:
    return {each["Id"]: each["State"]["StartedAt"] for each in stack.containers(service) if each["State"]["Running"]}


def test_scaling_up_and_down_under_load_loses_no_task(stack: Stack) -> None:
    path = "/var/lib/celeriac/notes-scaling"
    others = {service: running(stack, service) for service in ("worker-heavy", "web", "beat", "redis")}
    with ThreadPoolExecutor() as pool:
        load = pool.submit(stack.python, LOAD.format(path=path))
        eventually(lambda: len(stack.notes(path)) > 20, what="the load has begun")
        stack.make("scale-workers", "N=3")
        eventually(lambda: len(running(stack, "worker")) == 3)
        nodes = f"SELECT DISTINCT worker FROM django_celery_results_taskresult WHERE task_args LIKE '%{path}%'"
        eventually(lambda: len(stack.sql(nodes)) == 3, 60, "all three have worked")

        def long_ones_run() -> bool:
            began = Counter(note.split()[0] for note in stack.notes(path))
            return sum(began[f"task-{n}"] == 1 for n in range(0, 400, 25)) >= 3  # noted "began" and not "ended"

        eventually(long_ones_run, what="long tasks are running")
        stack.make("scale-workers", "N=1")
        assert len(running(stack, "worker")) == 1
        ids = json.loads(load.result().splitlines()[-1])

    def ended() -> set[str]:
        return {row["task_id"] for row in stack.results(f"task_args LIKE '%{path}%' AND status = 'SUCCESS'")}

    eventually(lambda: ended() >= set(ids), 90, "every task has its result", every=1)
    noted = Counter(stack.notes(path))
    assert noted == Counter(f"task-{n} {what}" for n in range(400) for what in ("began", "ended")), "each ran once"
    assert {service: running(stack, service) for service in others} == others


def test_scaling_touches_the_one_service_and_is_remembered_by_the_next_up(stack: Stack) -> None:
    before = running(stack, "worker")
    stack.make("scale-workers", "N=2", "QUEUE=heavy_tasks")
    assert len(running(stack, "worker-heavy")) == 2
    assert running(stack, "worker") == before
    stack.up()
    assert len(running(stack, "worker-heavy")) == 2
    assert len(running(stack, "worker")) == 1


def test_an_up_after_scaling_restarts_nothing(stack: Stack) -> None:
    stack.make("scale-workers", "N=2", "QUEUE=heavy_tasks")
    services = ("web", "worker", "worker-heavy", "beat", "flower")
    before = {service: running(stack, service) for service in services}
    stack.up()
    assert {service: running(stack, service) for service in services} == before


def test_a_number_or_queue_that_makes_no_sense_is_refused(stack: Stack) -> None:
    (stack.folder / ".env").touch()
    assert "N=4" in stack.make("scale-workers", "N=many", check=False).stderr
    refused = stack.make("scale-workers", "N=2", "QUEUE=typo", check=False)
    assert refused.returncode
    assert "QUEUE=typo is not a queue" in refused.stderr
