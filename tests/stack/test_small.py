"""compose.small.yaml: web, both workers and beat in one container."""

import re
from collections.abc import Iterator

import pytest

from tests.stack.mailserver import MailServer
from tests.stack.project import Stack, fresh_clone
from tests.waiting import eventually

pytestmark = pytest.mark.stack

TASK = "config.tasks.debug_task"
ROLES = ("web", "worker", "worker-heavy", "beat")
#: Three probes that fail, ten seconds apart, after the half minute that a heartbeat is good for.
TURNS_RED = 150


class Small(Stack):
    project = "celeriac-test-small"
    services = ("postgres", "redis", "worker", "flower", "nginx")
    files = "compose.yaml:compose.small.yaml:tests/stack/compose.yaml"
    site, flower = "http://localhost:18081", "http://localhost:15556"

    def python(self, code: str, service: str = "worker") -> str:
        return super().python(code, service)

    def role(self, name: str) -> int:
        """The role's main process, in the container."""
        return int(re.findall(rf'"{name} is process (\d+)"', self.logs("worker"))[-1])

    def signal_role(self, signal: str, name: str) -> None:
        self.exec("worker", "bash", "-c", f"kill -{signal} {self.role(name)}")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, mail_server: MailServer) -> Iterator[Small]:
    folder = fresh_clone(tmp_path_factory.mktemp("small"))
    (folder / ".env").write_text(f'CELERY_BEAT_SCHEDULE={{"often": {{"task": "{TASK}", "schedule": 2}}}}\n')
    stack = Small(folder, EMAIL_URL=mail_server.url)
    stack.remove()
    try:
        stack.up()
        yield stack
    finally:
        stack.remove()


def test_five_containers_do_what_eight_do(small: Small) -> None:
    assert small.health() == dict.fromkeys(small.services, "healthy")
    assert not any(small.ids(service) for service in ("web", "worker-heavy", "beat"))
    assert small.visitor().get("/admin/login/").status == 200
    for queue in ("default", "heavy_tasks"):
        assert small.result(small.send(TASK, queue=queue))["worker"].startswith(f"{queue}@")
    eventually(lambda: len(small.results(f"periodic_task_name = 'often' AND task_name = '{TASK}'")) > 1)
    assert small.flower_user().get("/workers").status == 200


def test_the_one_container_is_as_locked_down_as_each_of_them(small: Small) -> None:
    host = small.container("worker")["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert 0 < host["Memory"] < 1 << 30
    assert not host["PortBindings"]
    assert small.exec("worker", "id", "-u").stdout.strip() == "10001"
    assert not small.can("worker", "cat /run/secrets/flower_password")
    assert not small.can("flower", "cat /run/secrets/postgres_password")


@pytest.mark.parametrize("name", ROLES)
def test_a_role_that_is_killed_comes_back_in_the_same_container(small: Small, name: str) -> None:
    started, before = small.container("worker")["State"]["StartedAt"], small.role(name)
    small.signal_role("KILL", name)
    eventually(lambda: small.role(name) != before)
    small.healthy()
    assert small.container("worker")["State"]["StartedAt"] == started
    assert small.result(small.send(TASK, queue="heavy_tasks"), 60)["status"] == "SUCCESS"


def test_the_container_is_red_when_one_role_is(small: Small) -> None:
    small.signal_role("STOP", "beat")
    eventually(lambda: small.ill() == {"worker": "unhealthy"}, TURNS_RED, every=1)
    small.signal_role("CONT", "beat")
    small.healthy()


def test_a_stop_lets_what_runs_finish(small: Small) -> None:
    task_id = small.send("tests.tasks.work", "/tmp/notes", "long", 20)
    eventually(lambda: "long began" in small.notes("/tmp/notes"))
    small.compose("stop", "worker")
    assert small.container("worker")["State"]["ExitCode"] == 0
    assert small.result(task_id)["status"] == "SUCCESS"
