"""Tasks that the benchmarks drain."""

import os
import time

from celery import shared_task
from django.contrib.auth import get_user_model


@shared_task
def one_query() -> bool:
    """What most tasks do at least: ask the database one thing."""
    return get_user_model().objects.filter(pk=0).exists()


@shared_task
def noop() -> None:
    """Nothing, and a result in Postgres that says so."""


@shared_task(durable=True)
def durable_noop() -> None:
    """The same, durable."""


@shared_task(durable=True, atomic=True)
def atomic_noop() -> None:
    """The same, in one transaction with its end."""


@shared_task
def pid(seconds: float) -> int:
    """Whose child did it; after so long that another one takes the next."""
    time.sleep(seconds)
    return os.getpid()
