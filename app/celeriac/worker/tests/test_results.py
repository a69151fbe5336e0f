"""A result in Postgres is stored by one statement, and is the row that django-celery-results would have written."""

from types import SimpleNamespace

import pytest
from celery import current_app, states
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django_celery_results.backends.database import DatabaseBackend as StockBackend
from django_celery_results.models import TaskResult

from celeriac.worker.results import DatabaseBackend

pytestmark = pytest.mark.django_db

REQUEST = SimpleNamespace(
    id="a",
    task="shop.tasks.charge",
    argsrepr="(1, 'ü')",
    kwargsrepr="{'by': 2}",
    hostname="default@host",
    periodic_task_name="nightly",
    children=[],
    meta={"mine": 1},
)
ENDS = {
    "started": (states.STARTED, {"pid": 1, "hostname": "default@host"}, None),
    "success": (states.SUCCESS, {"rows": [1, 2.5, None], "text": "grün"}, None),
    "failure": (
        states.FAILURE,
        {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"},
        "Traceback",
    ),
    "no result": (states.SUCCESS, None, None),
}


def stored(backend, task_id, ends, request=REQUEST):
    store = backend(app=current_app)
    for status, result, traceback in ends:
        store._store_result(task_id, result, status, traceback=traceback, request=request)
    row = TaskResult.objects.values().get(task_id=task_id)
    times = {name: row.pop(name) is not None for name in ("date_created", "date_done", "date_started")}
    return {**row, **times, "id": None, "task_id": None}


@pytest.mark.parametrize("how", ENDS)
def test_the_row_is_stocks(how):
    assert stored(DatabaseBackend, "a", [ENDS[how]]) == stored(StockBackend, "b", [ENDS[how]])


def test_without_a_request_it_is_stocks_too_but_that_the_traceback_is_kept():
    ours, stocks = (
        stored(kind, name, [ENDS["failure"]], None) for kind, name in ((DatabaseBackend, "a"), (StockBackend, "b"))
    )

    assert ours == {**stocks, "traceback": "Traceback"}


def test_the_row_is_stocks_after_every_step_of_a_task():
    steps = [ENDS["started"], ENDS["failure"], ENDS["started"], ENDS["success"]]

    assert stored(DatabaseBackend, "a", steps) == stored(StockBackend, "b", steps)


def test_it_keeps_when_the_task_was_first_seen_and_started():
    stored(DatabaseBackend, "a", [ENDS["started"]])
    before = TaskResult.objects.get()
    stored(DatabaseBackend, "a", [ENDS["success"]])
    after = TaskResult.objects.get()

    assert (after.date_created, after.date_started) == (before.date_created, before.date_started)


def test_one_statement_stores_a_result():
    for _ in range(2):  # a new one, and one that is there
        with CaptureQueriesContext(
            connection,
        ) as queries:
            DatabaseBackend(app=current_app)._store_result("a", 1, states.SUCCESS, request=REQUEST)
        assert len(queries) == 1


@pytest.mark.parametrize(("first", "then", "shown"), [("SUCCESS", "RETRY", "SUCCESS"), ("RETRY", "FAILURE", "FAILURE")])
def test_an_attempt_that_is_slow_to_say_that_there_is_another_one_does_not_hide_its_end(first, then, shown):
    store = DatabaseBackend(app=current_app)
    for status in (first, then):
        store._store_result("a", None, status, request=REQUEST)

    assert TaskResult.objects.get(task_id="a").status == shown


@pytest.mark.parametrize(("age", "shown"), [(0.3, "FAILURE"), (-60, "STARTED")])
def test_that_a_task_runs_is_not_stored_over_what_it_said_since_it_began(age, shown):
    """A row of an attempt before is older than that."""
    store = DatabaseBackend(app=current_app)
    store._store_result("a", None, "FAILURE", request=REQUEST)
    store.store_started("a", {"pid": 1}, REQUEST, age)

    assert TaskResult.objects.get(task_id="a").status == shown
