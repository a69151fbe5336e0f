"""A worker keeps its Postgres connections, and survives losing them."""

import time
from contextlib import contextmanager

import psycopg
import pytest
from django.db import connection
from django_celery_results.models import TaskResult

from tests.tasks import backend_pid, work
from tests.waiting import eventually


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_one_connection_serves_many_tasks(broker, start_worker, notes, pool):
    start_worker("-P", pool, "-c", "2")
    for _ in range(40):
        broker.send(backend_pid, notes.path)

    eventually(lambda: len(notes()) == 40)
    assert len({line.split()[1] for line in notes()}) <= 2


def test_connections_that_postgres_dropped_are_replaced_before_a_task_meets_them(broker, start_worker, notes):
    start_worker("-c", "1")
    broker.send(backend_pid, notes.path)
    eventually(lambda: len(notes()) == 1)
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s)", [notes()[0].split()[1]])
    eventually(lambda: TaskResult.objects.filter(status="SUCCESS").count() == 1)

    result = broker.send(backend_pid, notes.path)

    eventually(lambda: TaskResult.objects.filter(task_id=result.id, status="SUCCESS").exists())
    assert notes()[0] != notes()[1]


def test_a_result_waits_for_postgres_instead_of_getting_lost(broker, start_worker, notes):
    start_worker("-c", "1")
    result = broker.send(work, notes.path, "done", 2)
    eventually(lambda: "done began" in notes())

    with postgres_away():
        eventually(lambda: "done ended" in notes())
        time.sleep(1)

    eventually(lambda: TaskResult.objects.filter(task_id=result.id, status="SUCCESS").exists())
    assert notes() == ["done began", "done ended"]


@contextmanager
def postgres_away():
    """Nobody gets into the tests' database, and who is in is thrown out: as while Postgres restarts."""
    name = connection.settings_dict["NAME"]
    connection.close()
    with psycopg.connect(host=connection.settings_dict["HOST"], user="postgres", autocommit=True) as outside:
        outside.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        outside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        try:
            yield
        finally:
            outside.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
