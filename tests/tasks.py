"""Tasks for the tests, run by real workers. Each writes its effect to a file, one line for each run."""

import logging
import os
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from celery import Task, shared_task, states
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from django.db import connection, transaction
from django.utils import timezone

from celeriac.tracking import Progress


def note(path: str, text: str) -> None:
    with Path(path).open("a") as file:
        file.write(f"{text}\n")


def spend(seconds: float, until: str) -> None:
    """So many seconds, and longer when there is a file to wait for."""
    time.sleep(seconds)
    deadline = time.monotonic() + 280
    while until and not Path(until).exists() and time.monotonic() < deadline:
        time.sleep(0.05)


@shared_task
def work(path: str, name: str, seconds: float = 0.0, until: str = "") -> str:
    """Note the start, work for ``seconds``, and until there is the file ``until``, note the end."""
    note(path, f"{name} began")
    spend(seconds, until)
    note(path, f"{name} ended")
    return name


@shared_task
def backend_pid(path: str) -> None:
    """Note which Postgres process serves this child."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        note(path, f"{os.getpid()} {cursor.fetchone()[0]}")


@shared_task(default_retry_delay=1, max_retries=2)
def dies(path: str, times: int) -> None:
    """Kill the process this runs in, as the kernel does when memory runs out, the first ``times`` times."""
    note(path, "began")
    if len(Path(path).read_text().splitlines()) <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    note(path, "ended")


@shared_task
def deafen(path: str) -> None:
    """Finish, and leave this child asleep in a signal handler: alive for the kernel, deaf for the pool."""
    signal.signal(signal.SIGALRM, lambda *args: time.sleep(600))
    signal.setitimer(signal.ITIMER_REAL, 3)  # by then it has ended
    note(path, "deaf")


@shared_task(bind=True, default_retry_delay=1)
def retries(self: Task, path: str, seconds: float) -> None:
    """Fail after ``seconds`` the first time, and be done the second."""
    note(path, f"attempt {self.request.retries}" if not Path(path).exists() else "done")
    if len(Path(path).read_text().splitlines()) == 1:
        time.sleep(seconds)
        raise self.retry()


@shared_task
def stubborn(path: str) -> None:
    """Note the soft time limit, and work on until the hard one."""
    note(path, "began")
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        note(path, "soft limit")
    time.sleep(60)
    note(path, "ended")


@shared_task
def queries(path: str, where: str) -> str:
    """Query Postgres, ``where`` autocommit or atomic, until the soft limit; then save, as the documentation says."""
    try:
        with transaction.atomic() if where == "atomic" else nullcontext(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            note(path, cursor.fetchone()[0])
            cursor.execute("SELECT pg_sleep(60)")
    except SoftTimeLimitExceeded:
        return save(path)
    return "ended"


def save(path: str) -> str:
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT 'saved'")
        [saved] = cursor.fetchone()
    note(path, saved)
    return saved


@shared_task(bind=True)
def all_at_once(self: Task, path: str) -> str:
    """Transactions, durable jobs, reports and lines in the log, until the soft limit."""
    try:
        while True:
            for _ in range(20):
                with transaction.atomic():
                    pass
                logging.getLogger(__name__).warning("a line")
            echo_durable.delay("a job")
            Progress(self).report(1, at_once=True)
    except SoftTimeLimitExceeded:
        return save(path)


@shared_task(durable=True, atomic=True)
def goes_on(path: str) -> str:
    """A query in a part of the transaction, until the soft limit; the rest of the transaction is committed."""
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT pg_sleep(60)")
    except SoftTimeLimitExceeded:
        return save(path)
    return "ended"


class SlowEnd(Task):
    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        time.sleep(3)
        note(args[0], "hook ended")

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        self.on_success(None, task_id, args, kwargs)


@shared_task(base=SlowEnd)
def ends_slowly(path: str, end: str) -> None:
    note(path, "ended")
    if end == states.FAILURE:
        raise ValueError("its own error")


class Hooked(Task):
    def on_failure(self, *args: Any) -> None:
        raise ValueError("somebody's hook")


@shared_task(base=Hooked)
def sleeps(path: str, seconds: float) -> None:
    note(path, f"began in {os.getpid()}")
    time.sleep(seconds)
    note(path, "ended")


@shared_task
def child(path: str, megabytes: int = 0) -> None:
    """Grow by ``megabytes``, and note which child this runs in."""
    grown = b"x" * (megabytes << 20)
    note(path, str(os.getpid()))
    del grown


@shared_task(bind=True)
def clocks(self: Task) -> dict[str, str]:
    """What the clock's offset is, by Celery, Django and the operating system's time functions."""
    return {
        "celery": f"{self.app.now():%z}",
        "django": f"{timezone.localtime():%z}",
        "system": time.strftime("%z"),
    }


@shared_task
def fails(text: str) -> None:
    raise ValueError(text)


@shared_task
def add(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task
def echo(value: Any) -> Any:
    return value


@shared_task(durable=True)
def echo_durable(value: Any) -> Any:
    return value


@shared_task(durable=True)
def echo_all(*values: Any) -> Any:
    return values


class UnpicklableError(Exception):
    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)


@shared_task(bind=True, default_retry_delay=1, max_retries=1)
def ends(self: Task, path: str, how: str) -> Any:
    """End in one of the ways in which a task may."""
    note(path, how)
    match how:
        case "fails":
            raise ValueError("as asked")
        case "cannot be pickled":
            raise UnpicklableError("as asked", 1)
        case "ignored":
            raise Ignore
        case "rejected":
            raise Reject("as asked", requeue=False)
        case "requeued" if Path(path).read_text().splitlines().count(how) == 1:
            raise Reject("as asked", requeue=True)
        case "retried" if not self.request.retries:
            raise self.retry(countdown=0.1)
        case "exits":
            sys.exit(3)
    return how


@shared_task(durable=True, bind=True)
def durable(self: Task, path: str, name: str, seconds: float = 0.0, until: str = "") -> str:
    """Note the start, work for ``seconds``, and until there is the file ``until``, note the end."""
    note(path, f"{name} began")
    spend(seconds, until)
    note(path, f"{name} ended")
    return name


@shared_task(durable=True, atomic=True)
def effect(name: str, seconds: float = 0.0) -> str:
    """One row in a table without a unique constraint, and some time."""
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO effects (name) VALUES (%s)", [name])
    time.sleep(seconds)
    return name


@shared_task(durable=True)
def kills_its_worker(path: str) -> None:
    """Kill the process this runs in, every time."""
    note(path, "began")
    os.kill(os.getpid(), signal.SIGKILL)


@shared_task(durable=True, bind=True, max_retries=3)
def durable_retries(self: Task, path: str, fail: int, countdown: float = 0.1) -> str:
    """Fail the first ``fail`` times."""
    note(path, f"attempt {self.request.retries}")
    if self.request.retries < fail:
        raise self.retry(exc=ValueError("not yet"), countdown=countdown)
    return "done"


@shared_task(durable=True)
def durable_fails(words: str) -> None:
    raise ValueError(words)


@shared_task(durable=True)
def durable_add(x: int, y: int) -> int:
    return x + y


@shared_task(durable=True)
def durable_total(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task(durable=True, bind=True)
def durable_replaces(self: Task) -> None:
    raise self.replace(durable_add.s(1, 2))
