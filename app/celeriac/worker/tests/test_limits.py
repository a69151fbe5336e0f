"""A task that is told that its time is up can save what is done, wherever that meets it."""

import signal
import sys
import time
from contextlib import suppress
from threading import Timer, get_ident
from typing import Any

import pytest
from celery import states
from celery.exceptions import SoftTimeLimitExceeded
from django.contrib.contenttypes.models import ContentType
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

    limited = broker.send(queries, notes.path, where, soft_time_limit=3)
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

    limited = goes_on.apply_async((notes.path,), soft_time_limit=3)

    eventually(lambda: Job.objects.filter(id=limited.id, state="succeeded").exists())
    assert notes() == ["saved"]


def test_the_soft_limit_is_neither_lost_nor_breaks_anything_whatever_a_task_is_doing(app, start_worker, notes):
    start_worker("-c", "4")

    limited = [all_at_once.apply_async((notes.path,), soft_time_limit=0.5 + step / 1000) for step in range(100)]

    ends = [ended(result) for result in limited]
    assert {(end.status, end.result) for end in ends} == {(states.SUCCESS, '"saved"')}
    assert notes() == ["saved"] * 100
    assert not Job.objects.filter(task=echo_durable.name, state="failed").exists()


@pytest.mark.parametrize("end", [states.SUCCESS, states.FAILURE])
def test_a_task_that_has_ended_is_not_interrupted_while_its_end_is_dealt_with(broker, start_worker, notes, end):
    start_worker("-c", "1")

    limited = broker.send(ends_slowly, notes.path, end, soft_time_limit=1)

    result = ended(limited)
    assert (result.status, "its own error" in result.result) == (end, end == states.FAILURE)
    eventually(lambda: notes() == ["ended", "hook ended"])


# --- At one instruction ----------------------------------------------------------------------------------------


@pytest.fixture
def handled(monkeypatch):
    """As in a child; pytest's own timer stops meanwhile."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    seconds, _ = signal.setitimer(signal.ITIMER_REAL, 0)
    numbers: dict[int, Any] = {signal.SIGUSR1: on_soft_limit, signal.SIGALRM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in numbers.items()}
    yield
    time.sleep(0.05)  # whatever was put off
    for number, handler in before.items():
        signal.signal(number, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)


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


def trace_task(body, uuid="a task"):
    """Under the names that Celery's tracer gives them."""
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


@pytest.mark.parametrize("robust", [False, True])
def test_what_is_called_after_a_commit_is_all_called(transactional_db, handled, robust):
    done = []

    def hook():
        signal.raise_signal(signal.SIGUSR1)
        done.append("hook")

    def body():
        with transaction.atomic():
            transaction.on_commit(hook, robust=robust)
            transaction.on_commit(lambda: done.append("another"))
        wait()

    with pytest.raises(SoftTimeLimitExceeded):
        trace_task(body)
    assert done == ["hook", "another"]


def test_a_limit_that_waited_until_its_task_had_ended_interrupts_no_other(limited_after):
    done = limited_after("commit")

    def body():
        with transaction.atomic():
            pass

    trace_task(body)

    trace_task(wait, uuid="another task")
    assert done == ["commit"]


def test_a_limit_that_python_drops_in_a_destructor_is_raised_after_it(handled):
    class Destroyed:
        def __del__(self):
            signal.raise_signal(signal.SIGUSR1)

    def body():
        Destroyed()
        wait()

    with pytest.raises(SoftTimeLimitExceeded):
        trace_task(body)


def test_a_limit_that_was_put_off_waits_for_who_has_blocked_its_signal(limited_after):
    done = limited_after("commit")

    def body():
        with transaction.atomic():
            pass
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        wait()
        done.append("undisturbed")
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        wait()

    with pytest.raises(SoftTimeLimitExceeded):
        trace_task(body)
    assert done == ["commit", "undisturbed"]


def test_a_task_with_a_timer_of_its_own_keeps_it_and_is_interrupted_at_once(limited_after):
    done = limited_after("commit")
    signal.signal(signal.SIGALRM, lambda *args: done.append("its own"))
    signal.setitimer(signal.ITIMER_REAL, 0.1)

    def body():
        with transaction.atomic():
            pass
        done.append("put off")

    with pytest.raises(SoftTimeLimitExceeded):
        trace_task(body)
    wait()
    assert done == ["commit", "its own"]


@pytest.mark.parametrize(
    "statement", ["COPY (SELECT generate_series(1, 1000000)) TO STDOUT", "COPY django_content_type FROM STDIN"]
)
def test_a_copy_is_ended_and_the_transaction_around_it_goes_on(transactional_db, handled, statement):
    def copies():
        with transaction.atomic(), connection.cursor() as cursor, cursor.copy(statement) as copy:
            if "TO" in statement:
                copy.read()
            signal.raise_signal(signal.SIGUSR1)

    def body():
        with transaction.atomic():
            with pytest.raises(SoftTimeLimitExceeded):
                copies()
            ContentType.objects.create(app_label="after", model="copy")

    trace_task(body)

    assert ContentType.objects.get(app_label="after")


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
