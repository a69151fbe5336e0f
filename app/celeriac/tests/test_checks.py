"""Settings that contradict each other fail ``check --deploy`` and name the fix."""

import os

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError

from celeriac.checks import connections_needed
from tests.processes import ROOT, run


def check() -> None:
    call_command("check", "--deploy", "--tag", "celeriac", verbosity=0)


def failure() -> str:
    with pytest.raises(SystemCheckError) as error:
        check()
    return str(error.value)


def test_the_defaults_contradict_nothing():
    check()


@pytest.mark.parametrize("limit", [None, 0, -1])
def test_a_task_without_a_hard_time_limit_fails_the_check(settings, limit):
    settings.CELERY_TASK_TIME_LIMIT, settings.CELERY_TASK_SOFT_TIME_LIMIT = limit, None

    said = failure()

    assert f"CELERY_TASK_TIME_LIMIT is {limit or 'not set'}, so a task that hangs would hold its worker" in said
    assert "HINT: Set CELERY_TASK_TIME_LIMIT in seconds" in said


def test_a_task_may_take_longer_than_the_visibility_timeout(settings):
    settings.CELERY_TASK_TIME_LIMIT = 24 * 3600

    check()


def test_a_visibility_timeout_that_is_over_before_it_is_renewed_fails_the_check(settings):
    settings.CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": 10}

    said = failure()

    assert "The broker's visibility_timeout is 10 seconds, and a worker renews it every 5" in said
    assert "HINT: Give it at least 15 seconds" in said


@pytest.mark.parametrize("written", ["3600", None])
def test_a_visibility_timeout_that_is_no_number_is_named(settings, written):
    settings.CELERY_BROKER_TRANSPORT_OPTIONS = {"visibility_timeout": written}

    assert f"The visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS is {written!r}, which is no number" in failure()


@pytest.mark.parametrize("soft", [1800, 2000])
def test_a_soft_time_limit_at_or_after_the_hard_one_fails_the_check(settings, soft):
    settings.CELERY_TASK_SOFT_TIME_LIMIT = soft

    assert "HINT: Set CELERY_TASK_SOFT_TIME_LIMIT below 1800" in failure()


def test_a_soft_time_limit_may_be_left_out(settings):
    settings.CELERY_TASK_SOFT_TIME_LIMIT = None

    check()


def test_a_grace_shorter_than_the_drain_fails_the_check(settings):
    settings.STOP_GRACE_SECONDS = 60

    assert "HINT: Set STOP_GRACE_SECONDS to at least 75, or a shorter CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT" in failure()


def test_more_connections_than_postgres_allows_fail_the_check_and_are_counted_by_role(settings):
    settings.WORKER_REPLICAS = 40

    said = failure()

    assert "web 8, worker 160, worker-heavy 3, beat 2, migrate 2" in said
    assert "Postgres allows 97 (POSTGRES_MAX_CONNECTIONS=100 less 3" in said
    assert "HINT: Raise POSTGRES_MAX_CONNECTIONS" in said


def test_as_many_connections_as_postgres_allows_pass(settings):
    settings.POSTGRES_MAX_CONNECTIONS = sum(connections_needed().values()) + 3
    check()
    settings.POSTGRES_MAX_CONNECTIONS -= 1
    assert "celeriac.E004" in failure()


def test_the_connections_add_up(settings):
    settings.WEB_REPLICAS, settings.WEB_PROCESSES, settings.WEB_THREADS = 2, 3, 4
    settings.WORKER_REPLICAS, settings.CELERY_WORKER_CONCURRENCY = 5, 6
    settings.WORKER_HEAVY_REPLICAS, settings.WORKER_HEAVY_CONCURRENCY = 2, 1

    assert connections_needed() == {
        "web": 2 * 3 * 4,
        "worker": 5 * (6 + 2),
        "worker-heavy": 2 * (1 + 2),
        "beat": 2,
        "migrate": 2,
    }


@pytest.mark.parametrize("concurrency", [0, "auto", None])
def test_as_many_children_as_there_are_cores_are_counted(settings, concurrency):
    settings.CELERY_WORKER_CONCURRENCY = concurrency

    assert connections_needed()["worker"] == (os.cpu_count() or 1) + 2


def test_the_stack_does_not_start_with_a_contradiction():
    # What the container runs before it touches the database.
    done = run(str(ROOT / "services/migrate/start"), CELERY_TASK_TIME_LIMIT="0")

    assert done.returncode == 1
    assert "celeriac.E006" in done.stderr
    assert "Set CELERY_TASK_TIME_LIMIT in seconds" in done.stderr
