"""A deploy: a new image, `make up`, and nothing that runs or waits is lost."""

import pytest

from tests.stack.project import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.stack


def started(stack: Stack, *services: str) -> dict[str, str]:
    return {service: stack.container(service)["State"]["StartedAt"] for service in services}


def test_a_deploy_restarts_the_app_and_neither_postgres_nor_redis_nor_nginx(stack: Stack) -> None:
    stay, go = ("postgres", "redis", "nginx"), ("web", "worker", "worker-heavy", "beat", "flower")
    before = started(stack, *stay, *go)
    path = "/var/lib/celeriac/notes-deploy"
    running = stack.send("tests.tasks.work", path, "running", 8)
    eventually(lambda: stack.notes(path) == ["running began"])

    with (stack.folder / "app" / "manage.py").open("a") as changed:
        changed.write("# deployed\n")
    waiting = [stack.send("tests.tasks.work", path, f"waiting-{n}", 0, queue="heavy_tasks") for n in range(3)]
    stack.up()

    after = started(stack, *stay, *go)
    assert {service for service in before if before[service] != after[service]} == set(go)
    assert all(stack.result(task)["status"] == "SUCCESS" for task in [running, *waiting])
    assert sorted(stack.notes(path)) == sorted(
        f"{name} {what}" for name in ("running", *(f"waiting-{n}" for n in range(3))) for what in ("began", "ended")
    )


def test_web_never_holds_more_connections_than_it_has_threads(stack: Stack) -> None:
    script = "for n in $(seq 24); do (for m in $(seq 20); do /services/http-probe 8000 /readyz; done) & done; wait"
    stack.exec("web", "bash", "-c", script, check=False)

    held = stack.sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'celeriac-web'")
    assert 1 <= held[0]["count"] <= 2 * 4  # WEB_PROCESSES, WEB_THREADS
