"""How a worker should hold its Postgres connections: tasks per second and connections of each arrangement.

    .venv/bin/python -m bench.postgres [tasks] [rounds]

Every arrangement drains the same backlog, results in Postgres, one worker with two children, on an embedded
Postgres (fsync on) and Redis; the arrangements take turns, and what counts is their ratio.
"""

import os
import random
import signal
import statistics
import subprocess
import sys
import time

from bench.columns import WITHOUT
from bench.environment import APP, ask, database, stack

KEEP, CLOSE = "1000000000", "0"  # CELERY_DB_REUSE_MAX
#: Of the worker; the rest of it is stock Celery's.
STOCK = WITHOUT["with all of these"]
#: Arrangement -> variables of the worker. `web` is the service whose settings have psycopg's pool.
ARRANGEMENTS = {
    "closed around every task (stock)": STOCK | {"CELERY_DB_REUSE_MAX": CLOSE},
    "psycopg's pool, closed around every task (stock)": STOCK | {"CELERY_DB_REUSE_MAX": CLOSE, "SERVICE": "web"},
    "kept, never checked": STOCK | {"CELERY_DB_REUSE_MAX": KEEP, "UNCHECKED": "1"},
    "kept, checked before every task": STOCK | {"CELERY_DB_REUSE_MAX": KEEP},
    "the same, in Celeriac's pool": {"CELERY_DB_REUSE_MAX": KEEP},
}


def main(tasks: int = 1000, rounds: int = 3) -> None:
    with stack():
        measured: dict[str, list[tuple[float, int, int]]] = {name: [] for name in ARRANGEMENTS}
        for _ in range(rounds):
            for name in random.sample(list(ARRANGEMENTS), len(ARRANGEMENTS)):
                measured[name].append(drain(ARRANGEMENTS[name], tasks))
    report(measured, tasks, rounds)


def drain(variables: dict[str, str], tasks: int) -> tuple[float, int, int]:
    """Tasks per second, connections opened, and the most that were open at once."""
    enqueue = f"from bench.tasks import one_query\nfor _ in range({tasks}): one_query.delay()"
    subprocess.run([sys.executable, "manage.py", "shell", "-c", enqueue], cwd=APP, check=True, capture_output=True)
    database().execute("TRUNCATE django_celery_results_taskresult")
    before = sessions()
    command = [sys.executable, "-m", "bench.postgres_worker", "--quiet", "-A", "config", "worker", "-c", "2"]
    options = ["--without-mingle", "--without-gossip", "-l", "WARNING"]
    worker = subprocess.Popen([*command, *options], cwd=APP, env=os.environ | variables, stderr=subprocess.DEVNULL)
    first, most = None, 0
    try:
        while (done := finished()) < tasks:
            if done and first is None:
                first = (time.monotonic(), done)  # the worker's start is not what we measure
            most = max(most, open_now())
            time.sleep(0.02)
        assert first
        rate = (tasks - first[1]) / (time.monotonic() - first[0])
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    return rate, sessions() - before, most


def finished() -> int:
    return ask("SELECT count(*) FROM django_celery_results_taskresult WHERE status = 'SUCCESS'")


def sessions() -> int:
    """Connections to this database since the server started."""
    time.sleep(1.5)  # Postgres counts a session a moment after it ended
    return ask("SELECT sessions FROM pg_stat_database WHERE datname = current_database()")


def open_now() -> int:
    return ask("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'celeriac-%%'")


def report(measured: dict[str, list[tuple[float, int, int]]], tasks: int, rounds: int) -> None:
    print(f"{tasks} tasks, {rounds} rounds, one worker with two children; medians")
    print(f"{'arrangement':<52}{'tasks/s':>9}{'ratio':>8}{'opened':>9}{'at once':>9}")
    stock = statistics.median(rate for rate, _, _ in measured[next(iter(measured))])
    for name, runs in measured.items():
        rate, opened, most = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"{name:<52}{rate:>9.0f}{rate / stock:>8.1f}{opened:>9.0f}{most:>9.0f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
