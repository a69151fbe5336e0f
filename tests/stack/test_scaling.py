"""More workers and fewer, under load."""

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.stack.project import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.stack

ENOUGH = "/tmp/enough"
#: Sends short tasks and now and then one of five seconds; after about 25 seconds fewer, until there is a file.
LOAD = f"""
import json, os, time
ids = []
while len(ids) < 400 or len(ids) < 1000 and not os.path.exists({ENOUGH!r}):
    seconds = 5 if len(ids) % 25 == 0 else 0.02
    ids.append(app.send_task("tests.tasks.work", [{{path!r}}, f"task-{{{{len(ids)}}}}", seconds]).id)
    time.sleep(0.05 if len(ids) < 400 else 0.3)
print(json.dumps(ids))
"""


@pytest.fixture(autouse=True)
def _one_of_each_afterwards(stack: Stack) -> Iterator[None]:
    yield
    for service, queue in (("worker", "default"), ("worker-heavy", "heavy_tasks")):
        if len(stack.ids(service)) != 1:
            stack.make("scale-workers", "N=1", f"QUEUE={queue}")
    (stack.folder / ".env").unlink(missing_ok=True)


def running(stack: Stack, service: str) -> dict[str, str]:
    return {each["Id"]: each["State"]["StartedAt"] for each in stack.containers(service) if each["State"]["Running"]}


def test_scaling_up_and_down_under_load_loses_no_task(stack: Stack) -> None:
    path = "/var/lib/celeriac/notes-scaling"
    others = {service: running(stack, service) for service in ("worker-heavy", "web", "beat", "redis")}
    stack.exec("web", "rm", "-f", ENOUGH)
    with ThreadPoolExecutor() as pool:
        load = pool.submit(stack.python, LOAD.format(path=path))
        eventually(lambda: len(stack.notes(path)) > 20, what="the load has begun")
        stack.make("scale-workers", "N=3")
        eventually(lambda: len(running(stack, "worker")) == 3)
        nodes = f"SELECT DISTINCT worker FROM django_celery_results_taskresult WHERE task_args LIKE '%{path}%'"
        eventually(lambda: len(stack.sql(nodes)) == 3, what="all three have worked")

        def long_ones_run() -> bool:
            began = Counter(note.split()[0] for note in stack.notes(path))
            return sum(began[f"task-{n}"] == 1 for n in range(0, 1000, 25)) >= 3  # noted "began" and not "ended"

        eventually(long_ones_run, what="long tasks are running")
        stack.make("scale-workers", "N=1")
        assert len(running(stack, "worker")) == 1
        stack.exec("web", "touch", ENOUGH)
        ids = json.loads(load.result().splitlines()[-1])

    def ended() -> set[str]:
        return {row["task_id"] for row in stack.results(f"task_args LIKE '%{path}%' AND status = 'SUCCESS'")}

    eventually(lambda: ended() >= set(ids), 240, "every task has its result", every=1)
    noted = Counter(stack.notes(path))
    assert noted == Counter(f"task-{n} {what}" for n in range(len(ids)) for what in ("began", "ended")), "each ran once"
    assert {service: running(stack, service) for service in others} == others


def test_scaling_touches_one_service_and_the_next_up_remembers_it_and_restarts_nothing(stack: Stack) -> None:
    services = ("web", "worker", "beat", "flower", "redis", "postgres", "nginx")
    before, (heavy,) = {service: running(stack, service) for service in services}, stack.ids("worker-heavy")
    stack.make("scale-workers", "N=2", "QUEUE=heavy_tasks")
    assert {service: running(stack, service) for service in services} == before
    two = running(stack, "worker-heavy")
    assert len(two) == 2
    assert heavy in two
    stack.up()
    assert {service: running(stack, service) for service in services} == before
    assert running(stack, "worker-heavy") == two


def test_a_number_or_queue_that_makes_no_sense_is_refused(stack: Stack) -> None:
    assert "N=4" in stack.make("scale-workers", "N=many", check=False).stderr
    refused = stack.make("scale-workers", "N=2", "QUEUE=typo", check=False)
    assert refused.returncode
    assert "QUEUE=typo is not a queue" in refused.stderr
    assert len(stack.ids("worker")) == len(stack.ids("worker-heavy")) == 1
