"""One measurement: a column's tasks are sent and worked on, by processes of its own, on emptied servers."""

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
from psycopg import sql
from redis import Redis

from bench.columns import Column
from bench.effects import Effects
from bench.environment import ROOT, ask, database
from bench.proxy import delayed
from demo.servers import free_port, wait_for_port

PEERS = ROOT / "bench" / ".peers"
#: Seconds after which a client that sends has failed.
DRIVE_PATIENCE = 3600
#: What any column writes to Postgres while it is measured.
TABLES = (
    "celeriac_job",
    "celeriac_batch",
    "django_celery_results_taskresult",
    "procrastinate_jobs",
    "django_q_ormq",
    "django_q_task",
)


@dataclass(frozen=True)
class Setting:
    """Under which circumstances a row measures."""

    workers: int = 2
    #: redis, or django-db: in Postgres.
    results: str = "redis"
    #: On or off; None is as the column has them by default.
    events: bool | None = None
    flower: bool = False
    durable: bool = False
    atomic: bool = False
    #: 2 ms to Redis.
    far: bool = False


class FailedError(Exception):
    """A column's process ended that should not have; the text is what it said last."""


@dataclass
class Run:
    column: Column
    setting: Setting
    tasks: int
    folder: Path
    #: Where the column's processes write what they have to say.
    log: Path
    #: Of the proxy, when the setting has one.
    far_port: int = 0
    flower_port: int = field(default_factory=free_port)
    effects: Effects = field(init=False)

    def __post_init__(self) -> None:
        path = self.folder / "effects"
        path.unlink(missing_ok=True)
        self.effects = Effects(path)

    @property
    def home(self) -> Path:
        """The environment that the column is installed in."""
        return PEERS if self.column.peer else Path(sys.prefix)

    def variables(self, far: bool = False) -> dict[str, str]:
        """The environment of the column's processes."""
        inherited = {k: v for k, v in os.environ.items() if k not in {"DJANGO_SETTINGS_MODULE", "CELERY_IMPORTS"}}
        return {
            **inherited,
            "PATH": f"{self.home}/bin:{os.environ['PATH']}",
            "EFFECTS": str(self.effects.path),
            "REDIS_PORT": str(self.far_port if far and self.far_port else os.environ["REDIS_PORT"]),
            **{name: self.fill(text) for name, text in self.column.variables.items()},
        }

    def fill(self, text: str) -> str:
        """``text`` with what it names in braces; these alone, because JSON has braces, too."""
        events = self.column.events if self.setting.events is None else self.setting.events
        known: dict[str, object] = {
            "root": ROOT,
            "folder": self.folder,
            "workers": self.setting.workers,
            "results": self.setting.results,
            "events": "true" if events else "false",
            "durable": "bench.peers.*" if self.setting.durable else "",
            "atomic": "true" if self.setting.atomic else "false",
            "port": self.flower_port,
        }
        for name, value in known.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    def start(self, command: str, far: bool = False, **variables: str) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                shlex.split(self.fill(command)),
                cwd=self.folder,
                env=self.variables(far) | variables,
                stdout=log,
                stderr=log,
            )

    def drive(self, action: str, far: bool = False, **options: Any) -> Any:
        """What bench/drive.py answers."""
        words = ["-m", "bench.drive", f"bench.peers.{self.column.module}", action, json.dumps(options)]
        with self.log.open("ab") as log:
            done = subprocess.run(
                [self.home / "bin" / "python", *words],
                cwd=self.folder,
                env=self.variables(far),
                stdout=subprocess.PIPE,
                stderr=log,
                timeout=DRIVE_PATIENCE,
            )
        if done.returncode:
            raise FailedError(f"{action}: {last_line(self.log)}")
        return json.loads(done.stdout.splitlines()[-1])

    @contextmanager
    def workers(self) -> Iterator["Workers"]:
        with ExitStack() as stack:
            if self.setting.flower:
                stack.enter_context(self.flower())
            times = self.setting.workers if self.column.single else 1
            started = [self.start(self.column.worker, far=True) for _ in range(times)]
            stack.callback(end, started)
            yield Workers(started, self.log)

    @contextmanager
    def flower(self) -> Iterator[None]:
        flower = self.start(self.column.flower)
        try:
            wait_for_port(self.flower_port, flower)
            with scraped(f"http://127.0.0.1:{self.flower_port}/metrics", self.column.variables):
                yield
        finally:
            end([flower])


@contextmanager
def scraped(url: str, variables: Mapping[str, str]) -> Iterator[None]:
    """Once a second, as Prometheus would four times a minute. Raises FailedError when that did not work once."""
    words = f"flower:{variables.get('FLOWER_PASSWORD', '')}"
    request = Request(url, headers={"Authorization": f"Basic {b64encode(words.encode()).decode()}"})
    over, sizes = threading.Event(), []

    def scrape() -> None:
        while not over.wait(1):
            with suppress(OSError), urlopen(request, timeout=10) as answer:  # busy, or not ready
                sizes.append(len(answer.read()))

    scraper = threading.Thread(target=scrape)
    scraper.start()
    try:
        yield
    finally:
        over.set()
        scraper.join()
    if not sizes:
        raise FailedError(f"{url} was never answered")


@contextmanager
def prepared(column: Column, setting: Setting, tasks: int, folder: Path, log: Path) -> Iterator[Run]:
    """A run, on servers that hold nothing of another one."""
    empty()
    with ExitStack() as stack:
        far_port = stack.enter_context(delayed(int(os.environ["REDIS_PORT"]))) if setting.far else 0
        yield Run(column, setting, tasks, folder, log, far_port)


def empty() -> None:
    redis().flushall()
    tables = [table for table in TABLES if ask("SELECT to_regclass(%s)", table)]
    database().execute(sql.SQL("TRUNCATE {} CASCADE").format(sql.SQL(", ").join(map(sql.Identifier, tables))))


def redis() -> Any:
    return Redis(port=int(os.environ["REDIS_PORT"]), password=os.environ["REDIS_PASSWORD"])


def last_line(log: Path) -> str:
    """What a program said at its end."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


# --- Processes ---------------------------------------------------------------------------------------------------


@dataclass
class Workers:
    started: list[subprocess.Popen[bytes]]
    log: Path

    def check(self) -> None:
        if any(process.poll() is not None for process in self.started):
            raise FailedError(f"the worker ended: {last_line(self.log)}")

    def cpu(self) -> dict[str, float]:
        """Seconds that each kind of process has used until now."""
        mains = [psutil.Process(process.pid) for process in self.started]
        return {
            "main": sum(own(main) for main in mains),
            "children": sum(family(main) - own(main) for main in mains),
            "Redis": family(psutil.Process(redis().info("server")["process_id"])),
            "Postgres": family(psutil.Process(ask("SELECT pg_backend_pid()")).parents()[0]),
        }

    def memory(self) -> float:
        """MB of all of them; PSS: a page that two share counts half for each."""
        total = 0.0
        for process in self.started:
            main = psutil.Process(process.pid)
            total += sum(each.memory_full_info().pss for each in [main, *main.children(recursive=True)])
        return total / 1e6


def own(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def family(process: psutil.Process) -> float:
    """With its children, and with those that have ended."""
    total = 0.0
    for each in [process, *process.children(recursive=True)]:
        try:
            total += sum(each.cpu_times()[:4])
        except psutil.NoSuchProcess:  # in its parent's times from now on
            continue
    return total


def end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Ask them to end, and kill whatever of them and their children is left."""
    families = [child for process in processes for child in children_of(process)]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + 5
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for child in families:
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue


def children_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    try:
        return psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
