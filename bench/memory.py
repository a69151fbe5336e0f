"""What the idle stack costs: stock Django and Celery, our roles each by itself, and our roles from one parent.

    .venv/bin/python -m bench.memory [--setups stock roles …]

Each setup runs alone, all its roles at the same time, on an embedded Postgres and Redis that are not counted: web with
two processes, two workers with two children each, beat and Flower. All of them have done something: every web process
has answered a page, every child has run a task. Memory is PSS: every page counted once, split among those who share it.
"""

import argparse
import os
import subprocess
import sys
import time
import urllib.request
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from bench.environment import APP, ROOT, database, stack
from bench.report import markdown
from bench.run import end
from demo.servers import free_port, wait_for_port
from tests.waiting import eventually

QUEUES = {"worker": "default", "worker-heavy": "heavy_tasks"}
CHILDREN = 2
#: Seconds after the last work until memory is read.
IDLE = 10
PASSWORD = "only-for-benchmarks"
#: Sends to a queue until each child has done one; prints their process ids.
WARM_UP = """
import sys, time
from importlib import import_module
import django
import_module(sys.argv[1])
django.setup()
from bench.tasks import pid
queue, children, pids = sys.argv[2], int(sys.argv[3]), set()
while len(pids) < children:
    pids |= {result.get(timeout=60) for result in [pid.apply_async([0.5], queue=queue) for _ in range(children)]}
print(sorted(pids))
"""


@dataclass
class Setup:
    name: str
    #: Role -> what starts it; "parent" starts all that have no command of their own.
    commands: dict[str, str]
    variables: dict[str, str] = field(default_factory=dict)
    #: The module with Celery's app; and the folder that it is found in.
    app: str = "config"
    folder: Path = APP


SERVICES = ROOT / "services"
OURS = {
    "web": f"{SERVICES}/web/start",
    **{role: f"{SERVICES}/worker/start {queue}" for role, queue in QUEUES.items()},
    "beat": f"{SERVICES}/beat/start",
    "flower": f"{SERVICES}/flower/start",
}
SMALL = {"parent": f"{SERVICES}/small/start", "flower": OURS["flower"]}
STOCK = "celery --app bench.tutorial"
SETUPS = [
    Setup(
        "stock",
        {
            "web": "gunicorn --workers 2 --bind 127.0.0.1:$WEB_PORT bench.tutorial.wsgi",
            **{
                role: f"{STOCK} worker --loglevel INFO --concurrency {CHILDREN} -Q {queue} --hostname {queue}@%h"
                for role, queue in QUEUES.items()
            },
            "beat": f"{STOCK} beat --loglevel INFO --schedule $RUN_DIR/beat",
            "flower": f"{STOCK} flower --port=$FLOWER_PORT",
        },
        {"DJANGO_SETTINGS_MODULE": "bench.tutorial.settings"},
        app="bench.tutorial",
        folder=ROOT,
    ),
    Setup("roles", OURS, {"DEMOS": "false"}),
    Setup("roles, demos", OURS, {"DEMOS": "true"}),
    Setup("small", SMALL, {"DEMOS": "false"}),
    Setup("small, demos", SMALL, {"DEMOS": "true"}),
]


def main() -> None:
    parser = argparse.ArgumentParser(description="What the idle stack costs.")
    parser.add_argument("--setups", nargs="+", default=[setup.name for setup in SETUPS])
    chosen = parser.parse_args().setups
    with stack() as folder:
        found = {}
        for setup in SETUPS:
            if setup.name in chosen:
                print(f"{setup.name} …", file=sys.stderr, flush=True)
                found[setup.name] = measure(setup, folder)
    print(table(found))


def measure(setup: Setup, folder: Path) -> dict[str, float]:
    """Role -> MB."""
    with running(setup, folder) as (mains, environment):
        warm_up(setup, mains, environment)
        time.sleep(IDLE)
        return {role: sum(map(pss, family(role, main))) for role, main in mains.items()}


@contextmanager
def running(setup: Setup, folder: Path) -> Iterator[tuple[dict[str, psutil.Process], dict[str, str]]]:
    web, flower = free_port(), free_port()
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RUN_DIR": str(folder),
        "WEB_PORT": str(web),
        "WEB_BIND": f"127.0.0.1:{web}",
        "FLOWER_PORT": str(flower),
        "FLOWER_ADDRESS": "127.0.0.1",
        "FLOWER_PASSWORD": PASSWORD,
        "FLOWER_DB": str(folder / "flower"),
        "STATIC_ROOT": str(folder / "static"),
        "CELERY_WORKER_CONCURRENCY": str(CHILDREN),
        "WORKER_HEAVY_CONCURRENCY": str(CHILDREN),
        "LOG_LEVEL": "INFO",
        **setup.variables,
    }
    prepare(setup, environment)
    started = {}
    try:
        for role, command in setup.commands.items():
            with (folder / f"{setup.name}-{role}.log").open("wb") as log:
                started[role] = subprocess.Popen(
                    ["sh", "-c", f"exec {command}"], cwd=setup.folder, env=environment, stdout=log, stderr=log
                )
        wait_for_port(web, started.get("web") or started["parent"], 60)
        wait_for_port(flower, started["flower"], 60)
        mains = {role: psutil.Process(process.pid) for role, process in started.items()}
        if "parent" in mains:
            forked = sorted(mains["parent"].children(), key=psutil.Process.create_time)
            mains |= zip(("web", *QUEUES, "beat"), forked, strict=True)
        yield mains, environment
        assert all(process.poll() is None for process in started.values()), "one of them has ended"
    finally:
        end(list(started.values()))


def prepare(setup: Setup, environment: dict[str, str]) -> None:
    if setup.folder == APP:
        manage, commands = [sys.executable, "manage.py"], [["collectstatic", "--no-input"], ["prepare"]]
    else:
        database().execute("CREATE DATABASE tutorial")
        manage, commands = [sys.executable, "-m", "django"], [["migrate"]]
    for command in commands:
        subprocess.run([*manage, *command], cwd=setup.folder, env=environment, check=True, capture_output=True)


# --- Warming up --------------------------------------------------------------------------------------------------


def warm_up(setup: Setup, mains: dict[str, psutil.Process], environment: dict[str, str]) -> None:
    for queue in QUEUES.values():
        command = [sys.executable, "-c", WARM_UP, setup.app, queue, str(CHILDREN)]
        subprocess.run(command, cwd=setup.folder, env=environment, check=True, stdout=subprocess.DEVNULL, timeout=120)
    web = mains["web"]
    eventually(lambda: len(web.children()) == 2)
    for process in web.children():
        others = [each for each in web.children() if each != process]
        for other in others:
            other.suspend()
        get(f"http://127.0.0.1:{environment['WEB_PORT']}/admin/login/")
        for other in others:
            other.resume()
    get(f"http://127.0.0.1:{environment['FLOWER_PORT']}/workers", f"flower:{PASSWORD}")


def get(url: str, login: str = "") -> None:
    headers = {"Authorization": f"Basic {b64encode(login.encode()).decode()}"} if login else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
        assert response.status == 200, url


# --- What is found -----------------------------------------------------------------------------------------------


def family(role: str, main: psutil.Process) -> list[psutil.Process]:
    return [main] if role == "parent" else [main, *main.children(recursive=True)]


def pss(process: psutil.Process) -> float:
    return process.memory_full_info().pss / 1e6


def table(found: dict[str, dict[str, float]]) -> str:
    roles = [*OURS, "parent"]
    texts = [["idle PSS, MB", *found]]
    texts += [[role, *(f"{each[role]:.0f}" if role in each else "" for each in found.values())] for role in roles]
    totals = [sum(each.values()) for each in found.values()]
    texts.append(["**all**", *(f"**{total:.0f}**" for total in totals)])
    if "stock" in found:
        stock = sum(found["stock"].values())
        texts.append(["of stock", *(f"{total / stock:.2f}" for total in totals)])
    return markdown(texts)


if __name__ == "__main__":
    main()
