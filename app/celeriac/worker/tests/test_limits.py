"""A task that is told that its time is up can save what is done, wherever that meets it."""

import signal
import time
from contextlib import suppress
from threading import Timer, get_ident

import pytest
from celery import states
from celery.exceptions import SoftTimeLimitExceeded
from django.db import connection, transaction
from django_celery_results.models import TaskResult

from celeriac.models import Job
from celeriac.worker.limits import on_soft_limit
from tests.tasks import all_at_once, backend_pid, echo_durable, ends_slowly, goes_on, queries
from tests.waiting import eventually


def ended(result):
    return eventually(lambda: TaskResult.objects.filter(task_id=result.id, status__in=states.READY_STATES).first())


@pytest.mark.parametrize("where", ["autocommit", "atomic"])
@pytest.mark.parametrize("pool", ["celeriac.worker.prefork:TaskPool", "prefork"])
def test_a_task_whose_soft_limit_falls_into_a_query_can_save_what_is_done(broker, start_worker, notes, pool, where):
    start_worker("-c", "1", CELERY_WORKER_POOL=pool)

    limited = broker.send(queries, notes.path, where, soft_time_limit=2)
    after = broker.send(backend_pid, notes.path)

    assert ended(after).status == states.SUCCESS
    assert (ended(limited).status, ended(limited).result) == (states.SUCCESS, '"saved"')
    asked, saved, pid = notes()
    assert saved == "saved"
    assert pid.endswith(f" {asked}"), "its connection is kept"
    assert not asks(asked), "the query is cancelled"


def asks(pid):
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_stat_activity WHERE pid = %s AND query ~ 'pg_sleep'", [pid])
        return cursor.fetchall()


def test_a_transaction_of_which_a_part_was_interrupted_is_committed(app, start_worker, notes):
    start_worker("-c", "1")

    limited = goes_on.apply_async((notes.path,), soft_time_limit=2)

    eventually(lambda: Job.objects.filter(id=limited.id, state="succeeded").exists())
    assert notes() == ["saved"]


def test_the_soft_limit_is_neither_lost_nor_breaks_anything_whatever_a_task_is_doing(app, start_worker, notes):
    start_worker("-c", "4")

    limited = [all_at_once.apply_async((notes.path,), soft_time_limit=0.2 + step / 1000) for step in range(100)]

    ends = [ended(result) for result in limited]
    assert {(end.status, end.result) for end in ends} == {(states.SUCCESS, '"saved"')}
    assert notes() == ["saved"] * 100
    assert not Job.objects.filter(task=echo_durable.name, state="failed").exists()


def test_a_task_that_has_ended_is_not_interrupted_while_its_end_is_dealt_with(broker, start_worker, notes):
    start_worker("-c", "1")

    limited = broker.send(ends_slowly, notes.path, soft_time_limit=1)

    eventually(lambda: notes() == ["ended", "hook ended"])
    assert ended(limited).status == states.SUCCESS


# --- At one instruction ----------------------------------------------------------------------------------------


@pytest.fixture
def handled():
    """As in a child."""
    before = {number: signal.signal(number, on_soft_limit) for number in (signal.SIGUSR1, signal.SIGRTMIN)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def limited_after(transactional_db, handled, monkeypatch):
    """The soft limit's signal, once, when Django has called this method of its connection; and what has been done."""
    connection.ensure_connection()
    done = []

    def arrange(method):
        original = getattr(connection, method)

        def interrupted(*args, **options):
            original(*args, **options)
            if method not in done:
                done.append(method)
                signal.raise_signal(signal.SIGUSR1)

        monkeypatch.setattr(connection, method, interrupted)
        return done

    return arrange


def trace_task(body):
    """As in Celery's tracer; ``state`` is what it has there of the task."""
    state = None  # noqa: F841
    return body()


def wait():
    """Can be interrupted, and takes much longer than a limit is put off."""
    time.sleep(0.3)


@pytest.mark.parametrize("method", ["set_autocommit", "commit"])
def test_the_limit_waits_until_a_transaction_is_entered_or_left(limited_after, method):
    done = limited_after(method)

    def body():
        with transaction.atomic():
            done.append("body")
            if method == "set_autocommit":
                wait()
        wait()

    with pytest.raises(SoftTimeLimitExceeded):
        trace_task(body)
    assert done == (["set_autocommit", "body"] if method == "set_autocommit" else ["body", "commit"])
    assert (connection.in_atomic_block, connection.get_autocommit()) == (False, True)


def test_what_is_called_after_a_commit_can_be_interrupted(transactional_db, handled):
    done = []

    def hook():
        signal.raise_signal(signal.SIGUSR1)
        done.append("hook")

    def body():
        with transaction.atomic():
            transaction.on_commit(hook)

    with pytest.raises(SoftTimeLimitExceeded):
        trace_task(body)
    assert not done


def test_a_limit_that_waited_until_its_task_had_ended_interrupts_no_other(limited_after):
    limited_after("commit")

    def body():
        with transaction.atomic():
            pass

    trace_task(body)

    trace_task(wait)


def test_a_transaction_in_which_a_query_was_interrupted_is_rolled_back_although_its_task_goes_on(
    transactional_db, handled
):
    committed = []

    def body():
        with transaction.atomic():
            transaction.on_commit(lambda: committed.append(True))
            Timer(0.3, signal.pthread_kill, (get_ident(), signal.SIGUSR1)).start()
            with suppress(SoftTimeLimitExceeded), connection.cursor() as cursor:
                cursor.execute("SELECT pg_sleep(60)")

    trace_task(body)

    assert not committed
    assert (connection.in_atomic_block, connection.is_usable()) == (False, True)
