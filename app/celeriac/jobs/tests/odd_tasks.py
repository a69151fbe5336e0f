"""Durable tasks that do what a task seldom does; for test_failures.py, run by real workers."""

from pathlib import Path

from celery import shared_task
from celery.exceptions import Ignore
from django.db import connection

from tests.tasks import note


@shared_task(durable=True)
def ignores(path: str) -> None:
    """Says that there is nothing to do."""
    note(path, "ignored")
    raise Ignore


@shared_task(durable=True, atomic=True)
def session_ends(path: str) -> None:
    """Postgres ends the first attempt's session, as when it restarts, and is back at once."""
    note(path, "began")
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO effects (name) VALUES ('once')")
        if len(Path(path).read_text().splitlines()) == 1:
            cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")
