"""Results can be looked up from another process, wherever they are kept: what ``CELERY_RESULT_BACKEND`` names."""

import json
import sys
from html import unescape

import pytest
from celery import current_app
from celery.app.backends import by_url
from celery.result import AsyncResult, GroupResult
from django.db import connection
from django_celery_results.models import TaskResult

from tests.processes import ROOT, run
from tests.tasks import echo, fails
from tests.waiting import eventually

#: What a program does that has these settings: it sends, prints the ids, and is gone.
SEND = """
import django; django.setup()
import json
from celery import chord, group
from tests.tasks import add, echo, fails

numbers = group(echo.s(n) for n in (1, 2, 3)).apply_async()
numbers.save()
print(json.dumps({
    "success": echo.delay({"text": "grün", "rows": [1, 2]}).id,
    "failure": fails.delay("no rows").id,
    "ignored": echo.apply_async(["ignored"], ignore_result=True).id,
    "group": numbers.id,
    "chord": chord([echo.s(n) for n in (1, 2, 3)], add.s()).apply_async().id,
}))
"""
HOUR = 3600
SECONDS_LEFT = {
    "redis": lambda broker, task_id: broker.command("TTL", f"celery-task-meta-{task_id}"),
    "django-cache": lambda broker, task_id: one(
        "SELECT extract(epoch FROM expires - now()) FROM django_cache WHERE cache_key LIKE %s", f"%{task_id}"
    ),
}


def one(query, *parameters):
    """The first column of the first row."""
    with connection.cursor() as cursor:
        cursor.execute(query, parameters)
        return cursor.fetchone()[0]


def backend_at(name, broker):
    """The result backend of that name, as a program that reads results has it."""
    backend, url = by_url({"django-db": "celeriac.worker.results:DatabaseBackend", "redis": broker.url}.get(name, name))
    return backend(app=current_app, url=url)


def send(broker, backend):
    done = run(
        *(sys.executable, "-c", SEND),
        DJANGO_SETTINGS_MODULE="config.settings",
        PYTHONPATH=f"{ROOT}:{ROOT / 'app'}",
        POSTGRES_DB=connection.settings_dict["NAME"],
        CELERY_BROKER_URL=broker.url,
        CELERY_RESULT_BACKEND=backend,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("name", "batched"), [("django-db", "true"), ("django-db", "false"), ("redis", "true"), ("redis", "false")]
)
def test_results_are_kept_in_batches_or_by_celerys_own_way(broker, start_worker, name, batched):
    results_are_found(broker, start_worker, name, BATCHED_RESULTS=batched)


def test_results_in_djangos_cache(broker, start_worker):
    results_are_found(broker, start_worker, "django-cache")


def results_are_found(broker, start_worker, name, **variables):
    """By their ids, in another process than the one that sent the tasks."""
    start_worker("-c", "2", CELERY_RESULT_BACKEND=name, CELERY_RESULT_EXPIRES=str(HOUR), **variables)
    ids, backend = send(broker, name), backend_at(name, broker)
    result = {kind: AsyncResult(task_id, backend=backend) for kind, task_id in ids.items()}
    for kind in ("success", "failure", "chord"):
        eventually(result[kind].ready, what=kind)

    assert result["success"].state == "SUCCESS"
    assert result["success"].result == {"text": "grün", "rows": [1, 2]}

    assert result["failure"].state == "FAILURE"
    assert repr(result["failure"].result) == "ValueError('no rows')"
    assert "raise ValueError(text)" in result["failure"].traceback

    assert result["chord"].result == 6
    numbers = GroupResult.restore(ids["group"], backend=backend).results
    assert [AsyncResult(number.id, backend=backend).result for number in numbers] == [1, 2, 3]

    assert result["ignored"].state == "PENDING"  # and it was sent before the chord

    if name in SECONDS_LEFT:  # a row of django-db stays until the clean-up finds it expired: celeriac/cleanup.py
        assert HOUR - 200 < SECONDS_LEFT[name](broker, ids["success"]) <= HOUR


# --- In the admin ------------------------------------------------------------------------------------------


@pytest.fixture
def reader(client, sign_in, plain_static_files, transactional_db):
    """A browser of somebody who may look at results, and nothing else."""
    sign_in("view_taskresult", name="reader")
    return client


def test_who_may_view_results_reads_them_in_the_admin_and_changes_none(broker, start_worker, reader):
    start_worker("-c", "1", "-n", "worker-7@somewhere")
    broker.send(echo, {"text": "grün"})
    broker.send(fails, "no rows")
    eventually(lambda: TaskResult.objects.filter(status__in=["SUCCESS", "FAILURE"]).count() == 2)
    done, failed = (TaskResult.objects.get(status=status) for status in ("SUCCESS", "FAILURE"))
    url = "/admin/django_celery_results/taskresult/"

    listed = unescape(reader.get(url).content.decode())
    detail = {row: unescape(reader.get(f"{url}{row.pk}/change/").content.decode()) for row in (done, failed)}

    for row in (done, failed):
        for page in (listed, detail[row]):
            for text in (row.task_id, row.task_name, row.status, "worker-7@somewhere"):
                assert text in page
    assert json.dumps({"text": "grün"}) in detail[done]  # what it was given, and what it made of it
    assert "no rows" in detail[failed]
    assert "raise ValueError(text)" in detail[failed]
    assert 'name="_save"' not in detail[done]
    assert reader.post(f"{url}{done.pk}/change/", {"status": "FAILURE"}).status_code == 403
    assert reader.post(f"{url}{done.pk}/delete/", {"post": "yes"}).status_code == 403
