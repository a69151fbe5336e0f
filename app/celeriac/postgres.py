"""Postgres that is away: what that raises, and waiting for it where giving up would lose something."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import DataError, IntegrityError, InterfaceError, OperationalError, connection, transaction

from celeriac.health.worker import heartbeat

logger = logging.getLogger(__name__)

#: What a query raises when its connection is refused, or was lost.
POSTGRES_AWAY: tuple[type[Exception], ...] = (OperationalError, InterfaceError)
#: What it raises for what is to be stored, whenever it is tried.
REFUSED: tuple[type[Exception], ...] = (DataError, IntegrityError, TypeError, ValueError)
P = ParamSpec("P")
R = TypeVar("R")


def patiently(function: Callable[P, R]) -> Callable[P, R]:
    """Try again until Postgres answers; inside a transaction, which is lost with its connection, not at all."""

    @wraps(function)
    def trying(*args: P.args, **kwargs: P.kwargs) -> R:
        said = False
        while True:
            try:
                return function(*args, **kwargs)
            except POSTGRES_AWAY as error:
                if connection.in_atomic_block:
                    raise
                connection.close()
                if not said:
                    logger.warning("waiting for Postgres: %s", " ".join(str(error).split()))
                    said = True
                heartbeat.beat()  # in a worker's main process, too: waiting is being alive
                time.sleep(0.5)

    return trying


@contextmanager
def not_waiting_for_locks() -> Iterator[None]:
    """A transaction for an event loop: a row that somebody else holds is an OperationalError, soon."""
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SET LOCAL lock_timeout = '200ms'")
        yield
