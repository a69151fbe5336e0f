"""An embedded Postgres (fsync on) and Redis with a prepared database, for benchmarks that need no Docker."""

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from demo.servers import servers

ROOT = Path(__file__).resolve().parent.parent
APP = ROOT / "app"


@contextmanager
def stack(**variables: str) -> Iterator[Path]:
    """Start the servers and prepare the database; ``os.environ`` leads to them. Yields a folder to write to."""
    with tempfile.TemporaryDirectory(prefix="celeriac-bench-") as folder:
        Path(folder).chmod(0o755)
        (Path(folder) / "media" / "spool").mkdir(parents=True)
        os.environ.update(
            DJANGO_SETTINGS_MODULE="config.settings",
            DJANGO_SECRET_KEY="only-for-benchmarks-8c1f4d0f5b7e",
            STATE_DIR=folder,
            LOG_LEVEL="ERROR",
            CELERY_IMPORTS='["bench.tasks"]',
            PYTHONPATH=f"{ROOT}:{APP}",
            **variables,
        )
        with servers(Path(folder), "only-for-benchmarks") as addresses:
            os.environ.update(addresses)
            subprocess.run([sys.executable, "manage.py", "prepare"], cwd=APP, check=True, capture_output=True)
            yield Path(folder)


@functools.cache
def database() -> psycopg.Connection:
    names = {"host": "POSTGRES_HOST", "user": "POSTGRES_USER", "dbname": "POSTGRES_DB"}
    return psycopg.connect(**{name: os.environ[variable] for name, variable in names.items()}, autocommit=True)


def ask(sql: LiteralString, *parameters: Any) -> Any:
    """The first column of the first row."""
    row = database().execute(sql, parameters).fetchone()
    return row and row[0]
