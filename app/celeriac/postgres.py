"""Postgres that is away: what that raises, and waiting for it where giving up would lose something."""

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import InterfaceError, OperationalError, connection

from celeriac.health.worker import heartbeat

logger = logging.getLogger(__name__)

#: What a query raises when its connection is refused, or was lost.
POSTGRES_AWAY: tuple[type[Exception], ...] = (OperationalError, InterfaceError)
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
