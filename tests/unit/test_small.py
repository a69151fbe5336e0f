"""The small host: web, both workers and beat from one process, as services/small/start starts it."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from demo.servers import free_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
QUEUES = ("default", "heavy_tasks")
EVERY_SECOND = '{"every second": {"task": "config.tasks.debug_task", "schedule": 1}}'


class Small:
    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder, self.port, self.log, self.notes = folder, free_port(), folder / "log", folder / "notes"
        for path in ("mail", "media/spool"):
            (folder / path).mkdir(parents=True)
        self.variables = os.environ | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CELERY_IMPORTS": '["tests.tasks"]',
            "CELERY_BROKER_URL": f"redis://:{os.environ['REDIS_PASSWORD']}@127.0.0.1:{os.environ['REDIS_PORT']}/7",
            "POSTGRES_DB": "small",
            "STATE_DIR": str(folder),
            "STATIC_ROOT": str(folder / "static"),
            "RUN_DIR": str(folder),
            "WEB_BIND": f"127.0.0.1:{self.port}",
            "LOG_LEVEL": "INFO",
            "LOG_FORMAT": "json",
            **variables,
        }
        self.manage("collectstatic", "--no-input")
        self.manage("prepare")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [ROOT / "services/small/start"], cwd=ROOT / "app", env=self.variables, stdout=log, stderr=log
            )

    def manage(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "manage.py", *words],
            cwd=ROOT / "app",
            env=self.variables | {"LOG_LEVEL": "ERROR"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def said(self) -> str:
        return self.log.read_text()

    def pid(self, role: str) -> int:
        """Of the role's main process, the last that was started."""
        return int(re.findall(rf'"{role} is process (\d+)"', self.said())[-1])

    def ready(self) -> None:
        lines = [f"{queue}@{socket.gethostname()} ready." for queue in QUEUES]
        eventually(lambda: all(line in self.said() for line in lines) and self.answers(), 180, "every role is ready")

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as response:
                return response.status == 200
        except OSError:
            return False

    def work(self, name: str, queue: str, seconds: float = 0.0) -> None:
        call = f"work.apply_async(({str(self.notes)!r}, {name!r}, {seconds}), queue={queue!r})"
        self.manage("shell", "-c", f"from tests.tasks import work; {call}")

    def has(self, note: str) -> bool:
        return self.notes.exists() and note in self.notes.read_text().splitlines()

    def connections(self) -> dict[str, int]:
        """Postgres's, by the service that says it holds them."""
        with psycopg.connect(dbname="small", host=os.environ["POSTGRES_HOST"], user=os.environ["POSTGRES_USER"]) as own:
            query = "SELECT application_name, count(*) FROM pg_stat_activity WHERE datname = 'small' GROUP BY 1"
            return dict(own.execute(query).fetchall())


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    """One for all tests, the last of which ends it."""
    server = psycopg.connect(
        dbname="postgres", host=os.environ["POSTGRES_HOST"], user=os.environ["POSTGRES_USER"], autocommit=True
    )
    server.execute("CREATE DATABASE small")
    small = Small(tmp_path_factory.mktemp("small"), CELERY_BEAT_SCHEDULE=EVERY_SECOND)
    try:
        small.ready()
        yield small
    finally:
        left = psutil.Process(small.process.pid).children(recursive=True) if small.process.poll() is None else []
        small.process.kill()
        small.process.wait()
        for process in left:
            process.kill()
        server.execute("DROP DATABASE small WITH (FORCE)")
        server.close()


def test_one_process_serves_pages_works_on_both_queues_and_makes_the_schedules_runs(small: Small) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{small.port}/admin/login/") as response:
        assert "Celeriac" in response.read().decode()
    for queue in QUEUES:
        small.work(queue, queue)
    eventually(lambda: all(small.has(f"{queue} ended") for queue in QUEUES))
    count = "from django_celery_results.models import TaskResult as T; print(T.objects.filter(status='SUCCESS', "
    runs = f"{count}task_name='config.tasks.debug_task').count())"
    eventually(lambda: int(small.manage("shell", "-c", runs).splitlines()[-1]) > 1, what="beat has sent twice")


def test_each_role_has_connections_of_its_own(small: Small) -> None:
    for queue in QUEUES:
        small.work(queue, queue)
    eventually(lambda: {"celeriac-web", "celeriac-worker", "celeriac-beat"} <= small.connections().keys())
    assert "celeriac-small" not in small.connections(), "nothing is connected before the fork"
    assert psutil.Process(small.process.pid).num_threads() == 1


@pytest.mark.parametrize("role", ["web", "worker", "worker-heavy", "beat"])
def test_a_role_that_is_killed_comes_back_and_costs_the_others_nothing(small: Small, role: str) -> None:
    roles = {name: small.pid(name) for name in ("web", "worker", "worker-heavy", "beat")}
    left_behind = psutil.Process(roles[role]).children()
    os.kill(roles[role], signal.SIGKILL)

    eventually(lambda: small.pid(role) != roles[role])
    assert {name for name in roles if small.pid(name) != roles[name]} == {role}
    eventually(lambda: not any(process.is_running() for process in left_behind), what="its children have ended, too")
    assert f"{role} has ended with status -9" in small.said()
    eventually(small.answers)
    for queue in QUEUES:
        small.work(f"{queue} after {role}", queue)
    eventually(lambda: all(small.has(f"{queue} after {role} ended") for queue in QUEUES))


def test_a_role_that_ends_again_and_again_is_started_less_and_less_often(small: Small) -> None:
    for _ in range(2):
        before = small.pid("beat")
        os.kill(before, signal.SIGKILL)
        eventually(lambda before=before: small.pid("beat") != before)
    first, second = re.findall(r"beat has ended with status -9, and is started again in (\d+) s", small.said())[-2:]
    assert int(second) == 2 * int(first)


def test_the_heartbeats_are_those_that_the_health_check_reads(small: Small) -> None:
    said = (ROOT / "services/small/healthcheck").read_text()
    assert "/services/web/healthcheck" in said
    for file, line in (
        ("worker-default.alive", "worker/healthcheck default"),
        ("worker-heavy_tasks.alive", "worker/healthcheck heavy_tasks"),
        ("beat.alive", "beat/healthcheck"),
    ):
        assert line in said
        probe = [ROOT / "services/file-probe", small.folder / file]
        eventually(lambda probe=probe: subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0)


def test_an_app_that_connects_when_it_is_loaded_is_refused_in_one_sentence(tmp_path: Path) -> None:
    module = tmp_path / "too_early.py"
    module.write_text("import socket\nheld = socket.create_server(('127.0.0.1', 0))\n")
    done = subprocess.run(
        [sys.executable, "-m", "celeriac.small", "none"],
        cwd=ROOT / "app",
        env=os.environ | {"PYTHONPATH": str(tmp_path), "CELERY_IMPORTS": '["too_early"]', "SERVICE": "small"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Celeriac cannot start: an app opens a connection")


def test_sigterm_lets_what_runs_finish_on_both_queues_and_ends_everything(small: Small) -> None:
    for queue in QUEUES:
        small.work(f"{queue} at the end", queue, seconds=10)
    eventually(lambda: all(small.has(f"{queue} at the end began") for queue in QUEUES))
    families = psutil.Process(small.process.pid).children(recursive=True)

    small.process.send_signal(signal.SIGTERM)
    small.process.send_signal(signal.SIGTERM)  # once more, and nothing is cut short
    assert small.process.wait(90) == 0
    assert all(small.has(f"{queue} at the end ended") for queue in QUEUES)
    eventually(lambda: not any(process.is_running() for process in families))
