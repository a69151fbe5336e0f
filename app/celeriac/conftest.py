"""Fixtures for tests that need a real worker and a broker of their own to kill, or somebody who is signed in."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task, current_app
from django.conf import settings
from django.contrib.auth.models import Permission
from django.db import connection
from django.test import Client
from kombu import Connection
from redis import Redis
from redis.exceptions import RedisError

from celeriac.broker import publisher
from celeriac.jobs import enqueue
from demo.servers import REDIS_CONF, free_port, redis_server, wait_for_port
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
PROBE = ROOT / "services" / "file-probe"


def await_answers() -> None:
    """What this thread has sent is in Redis: durable jobs do not wait for its answer to theirs."""
    mine, deadline = publisher(current_app), time.monotonic() + 30
    while mine.wire and mine.unread:
        try:
            mine.read()
        except BlockingIOError:  # a second has passed
            if time.monotonic() > deadline:
                raise
        except (RedisError, OSError):
            mine.freshen()


class Broker:
    """A Redis that a test may stop, freeze and start again; with an append-only file, as in the stack."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        self.process = subprocess.Popen([redis_server(), str(REDIS_CONF), *options], stdout=subprocess.DEVNULL)
        wait_for_port(self.port, self.process, 60)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def kick_everybody(self, password: str) -> None:
        """Close every connection, as a restart does."""
        client = Redis(port=self.port, password=password)
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub")
        client.close()

    def connection(self) -> Connection:
        return Connection(self.url, transport_options=settings.CELERY_BROKER_TRANSPORT_OPTIONS)

    def send(self, task: Task, *args: Any, **options: Any) -> Any:
        with self.connection() as connection:
            return task.apply_async(args, connection=connection, queue="default", **options)

    def send_all(self, calls: Iterable[tuple[Task, *tuple[Any, ...]]]) -> list[Any]:
        """The results of (task, its arguments); through one connection."""
        with self.connection() as connection:
            return [task.apply_async(args, connection=connection, queue="default") for task, *args in calls]

    def command(self, *words: Any) -> Any:
        """Comes after what this thread has sent."""
        await_answers()
        with self.connection() as connection:
            return connection.default_channel.client.execute_command(*words)


class Worker:
    """``services/worker/start`` would run this command; here with the tests' tasks."""

    def __init__(self, broker: Broker, folder: Path, *options: str, **variables: str) -> None:
        self.heartbeat = folder / f"worker-{time.monotonic_ns()}.alive"
        self.log = self.heartbeat.with_suffix(".log")
        environment = os.environ | {
            "CELERY_BROKER_URL": broker.url,
            "CELERY_RESULT_BACKEND": "django-db",
            "CELERY_IMPORTS": '["tests.tasks"]',
            "POSTGRES_DB": connection.settings_dict["NAME"],  # the tests' database
            "HEARTBEAT_FILE": str(self.heartbeat),
            "PYTHONPATH": f"{ROOT}:{ROOT / 'app'}",
            "SERVICE": "worker",
            **variables,
        }
        command = [
            sys.executable,
            "-m",
            "tests.run_worker",
            "-A",
            "config",
            "worker",
            "-l",
            "INFO",
            "-Q",
            "default",
        ]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *options], cwd=ROOT / "app", env=environment, stdout=log, stderr=log
            )
        eventually(lambda: "ready." in self.log.read_text() or self.process.poll() is not None)

    def alive(self) -> bool:
        """What the container's probe says."""
        return subprocess.run([PROBE, self.heartbeat], stderr=subprocess.DEVNULL).returncode == 0

    def children(self) -> list[int]:
        listed = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in listed.split()]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.process.kill()
    broker.process.wait()


@pytest.fixture
def app(broker: Broker, transactional_db: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    """Celery's app in this process, which sends to the test's own broker."""
    app = current_app._get_current_object()
    monkeypatch.setenv("CELERY_BROKER_URL", broker.url)
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", broker.url)
    monkeypatch.setattr(app, "_pool", None)
    monkeypatch.setattr(app.amqp, "_producer_pool", None)
    monkeypatch.setattr(enqueue, "_resting_until", 0.0)
    enqueue.publisher().close()
    yield app
    enqueue.publisher().close()


@pytest.fixture
def start_worker(broker: Broker, tmp_path: Path, transactional_db: None) -> Iterator[Callable[..., Worker]]:
    started: list[Worker] = []

    def start(*options: str, **variables: str) -> Worker:
        started.append(Worker(broker, tmp_path, *options, **variables))
        return started[-1]

    yield start
    for worker in started:
        children = []
        with suppress(OSError):  # it ends by itself meanwhile
            children = worker.children()
        worker.process.kill()  # first, or it would replace them
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        worker.process.wait()


@pytest.fixture
def notes(tmp_path: Path) -> Callable[[], list[str]]:
    """The lines that tasks have noted so far; ``notes.path`` is what to give them."""
    path = tmp_path / "notes"

    def read() -> list[str]:
        return path.read_text().splitlines() if path.exists() else []

    read.path = str(path)  # type: ignore[attr-defined]
    return read


@pytest.fixture
def plain_static_files(settings: Any) -> None:
    """Pages name static files as they are: tests need no collectstatic."""
    backend = "django.contrib.staticfiles.storage.StaticFilesStorage"
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": backend}}


@pytest.fixture
def sign_in(client: Client, django_user_model: Any) -> Callable[..., Any]:
    """Sign ``client`` in as a new member of staff with these permissions; returns the user."""

    def sign_in(*permissions: str, name: str = "staff") -> Any:
        user = django_user_model.objects.create_user(name, is_staff=True)
        user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
        client.force_login(user)
        return user

    return sign_in
