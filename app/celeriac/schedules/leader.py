"""Which of several beats makes the runs: the one that holds a lock in Postgres, on a connection of its own.

Django's own connection would not do: it is closed whenever it is old or broken, and the lock with it.
"""

import logging
import os
import socket
import time

from django.db import InterfaceError, connections
from django.db.backends.base.base import BaseDatabaseWrapper

from celeriac.postgres import POSTGRES_AWAY

logger = logging.getLogger(__name__)

#: The advisory lock's number; any will do, as long as nobody else locks on it.
LOCK = 0x6265617420  # "beat "
#: Seconds without a sign of life after which Postgres ends the leader's session, and the lock with it: a leader
#: that hangs, is frozen or was cut off. A killed one is noticed at once, by its closed socket.
SILENCE = 8
#: Seconds for which a sign of life counts; less than SILENCE, so that a leader knows before the others do.
SURE = 5.0

#: Seconds for which it need not be asked again.
FRESH = 1.0


class Leader:
    """One process's part in the election."""

    def __init__(self) -> None:
        self.connection: BaseDatabaseWrapper | None = None
        self.held_at: float | None = None

    def holds(self) -> bool:
        """Whether this process leads. Asks Postgres, which is the sign of life; ask every few seconds."""
        asked_at = time.monotonic()
        try:
            held = self._still_holds() if self.held_at is not None else self._acquires()
        except POSTGRES_AWAY:
            self.resign()
            raise
        self.held_at = asked_at if held else None
        return held

    def is_sure(self) -> bool:
        """Whether nobody else can be leading at this moment, without asking."""
        return self.held_at is not None and time.monotonic() - self.held_at < SURE

    def is_fresh(self) -> bool:
        """Whether it was asked a moment ago."""
        return self.held_at is not None and time.monotonic() - self.held_at < FRESH

    def resign(self) -> None:
        """Close the connection; whoever stands by takes over."""
        self.held_at = None
        if self.connection:
            self.connection.close()
            self.connection = None

    def _still_holds(self) -> bool:
        self._ask("SELECT true")  # fails when the session was ended
        return True

    def _acquires(self) -> bool:
        if self.connection is None:
            self.connection = connections.create_connection("default")
            # For whoever looks into pg_stat_activity.
            name = f"celeriac-beat-leader {socket.gethostname()} {os.getpid()}"
            self._ask("SELECT set_config('application_name', %s, false)", name[:63])
            # The server's own clock ends a session whose client is silent, however the client went.
            self._ask("SELECT set_config('idle_session_timeout', %s, false)", f"{SILENCE}s")
        held = bool(self._ask("SELECT pg_try_advisory_lock(%s)", LOCK))
        if held:
            logger.info("this beat leads: it makes the runs until it ends")
        return held

    def _ask(self, query: str, *parameters: str | int) -> object:
        if not self.connection:
            raise InterfaceError("not connected")
        with self.connection.cursor() as cursor:
            cursor.execute(query, parameters)
            return cursor.fetchone()[0]
