"""``make bench``: Celeriac beside Celery and the other task queues of Python, on one Postgres and one Redis.

    .venv/bin/python -m bench.compare [--rows drain latency-50] [--columns celeriac huey] [--rounds 3] [--tasks 20000]

What is measured is in bench/rows.py, what is compared in bench/columns.py. Every round measures every row of every
column once, in an order of its own. After each measurement the report is on disk: a table, a JSON file and a picture.
Without arguments it takes hours.
"""

import argparse
import os
import platform
import random
import subprocess
from pathlib import Path

from bench import report
from bench.columns import COLUMNS, Column
from bench.environment import ROOT, ask, stack
from bench.peers.install import install
from bench.report import Measured, Report
from bench.rows import CLIENT, ROWS, Row
from bench.run import FailedError, prepared, redis

#: A part of few tasks still has a rate.
LEAST = 100


def main() -> None:
    asked = arguments()
    asked.output.mkdir(parents=True, exist_ok=True)
    rows = [row for row in ROWS if row.name in asked.rows]
    columns = [column for column in COLUMNS if column.name in asked.columns]
    pairs = [(row, column) for row in rows for column in columns if not row.lacks(column)]
    forget_servers()
    with stack() as folder:
        broken = prepare(columns, folder)
        found = Report(describe() | {"tasks": asked.tasks, "rounds": asked.rounds}, rows, columns)
        for number in range(1, asked.rounds + 1):
            for row, column in random.sample(pairs, len(pairs)):
                result = Measured(row.name, column.name, number, failed=broken.get(column.name, ""))
                if not result.failed:
                    measure(result, row, column, asked, folder)
                print(f"{number}: {row.name}, {column.name}: {result.in_words()}", flush=True)
                found.results.append(result)
                report.write(asked.output, found)
    print(f"\n{report.table(found)}\n\nWritten: {asked.output}/bench.md, bench.json, bench.svg")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    rows, columns = [row.name for row in ROWS], [column.name for column in COLUMNS]
    usual, queues = ([each.name for each in several if not each.only_by_name] for several in (ROWS, COLUMNS))
    parser.add_argument("--rows", nargs="+", choices=rows, default=usual, metavar="ROW", help=", ".join(rows))
    parser.add_argument(
        "--columns", nargs="+", choices=columns, default=queues, metavar="COLUMN", help=", ".join(columns)
    )
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (%(default)s)")
    parser.add_argument("--tasks", type=int, default=20_000, help="in a backlog; less where it is slow (%(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "bench" / "results", help="folder (%(default)s)")
    asked = parser.parse_args()
    asked.output = asked.output.resolve()
    return asked


def forget_servers() -> None:
    """The benchmark empties its servers again and again: never those that somebody's environment names."""
    for name in list(os.environ):
        if name.startswith(("POSTGRES_", "REDIS_", "CELERY_", "DJANGO_", "DATABASE_URL", "DURABLE_TASKS")):
            del os.environ[name]


def prepare(columns: list[Column], folder: Path) -> dict[str, str]:
    """Install the peers and make their tables; the columns for which that failed, and why."""
    broken = {}
    peers = [column for column in columns if column.peer]
    try:
        if peers:
            install()
    except (OSError, subprocess.CalledProcessError) as error:
        return {column.name: f"not installed: {error}" for column in peers}
    for column in peers:
        try:
            with prepared(column, ROWS[0].setting, 0, folder, folder / "prepare.log") as run:
                run.drive("prepare")
        except FailedError as error:
            broken[column.name] = str(error)
    return broken


def measure(result: Measured, row: Row, column: Column, asked: argparse.Namespace, folder: Path) -> None:
    """Measure a row of a column once; what goes wrong is in the result, too."""
    tasks = max(min(asked.tasks, LEAST), int(asked.tasks * row.share * column.share))
    log = folder / f"{row.name} {column.name} {result.round}.log"
    with prepared(column, row.setting, tasks, folder, log) as run:
        try:
            result.figures = row.measure(run)
        except Exception as error:  # whatever it is: it is reported, and the others go on
            result.failed = str(error) or repr(error)
        result.executed = run.effects.read()
        result.missing = max(0, run.effects.expected - result.executed)
        result.doubled = run.effects.doubled
    if result.failed and log.exists():
        (asked.output / log.name).write_bytes(log.read_bytes())


def describe() -> dict[str, str | int]:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    return {
        "commit": commit.strip(),
        "cores": os.cpu_count() or 0,
        "views asked by": CLIENT[0],
        "Python": platform.python_version(),
        "Redis": redis().info("server")["redis_version"],
        "Postgres": ask("SHOW server_version").split()[0],
    }


if __name__ == "__main__":
    main()
