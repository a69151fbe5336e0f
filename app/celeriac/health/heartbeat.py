"""A file whose modification time says until when its process counts as alive.

The probe compares it with the clock: a few milliseconds of shell. Docker does not restart what is
unhealthy (moby#28400), so a process that has stayed red for a while also ends itself; its restart policy
then starts it anew.
"""

import faulthandler
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kombu import Connection
from redis.exceptions import AuthenticationError

#: Seconds between two beats of a loop that turns.
INTERVAL = 5.0
#: Seconds after its last beat at which a process counts as dead.
ALIVE = 30.0
#: Seconds after that at which it ends itself, with every thread's traceback in the log.
PATIENCE = 60.0


class Heartbeat:
    """The heartbeat of this process, at ``HEARTBEAT_FILE``; without that variable it does nothing.

    Only ``services/*/start`` sets the variable, so a command typed by hand in the same container does not
    answer for the service, and a debugger's break point ends nobody.
    """

    def __init__(self, path: str | None = None) -> None:
        self.belong_here(path)

    def belong_here(self, path: str | None = None) -> None:
        """Answer for this process, and not for the one that has forked it (celeriac/small.py)."""
        path = path or os.environ.get("HEARTBEAT_FILE")
        self.path = Path(path) if path else None
        self.pid = os.getpid()

    def beat(self, busy: float = 0.0) -> None:
        """Promise to beat again within ``ALIVE`` seconds, or ``busy`` more when the loop is to be blocked."""
        if not self.path or os.getpid() != self.pid:  # a forked child does not answer for its parent
            return
        self.path.touch()
        until = time.time() + ALIVE + busy
        os.utime(self.path, (until, until))
        # A watchdog in C: it ends the process although a thread that never returns holds the interpreter.
        faulthandler.dump_traceback_later(ALIVE + PATIENCE + busy, exit=True)

    def beat_while_connecting(self, connection: Connection, waiting: Callable[[], None] = lambda: None) -> None:
        """Make ``connection`` beat, and call ``waiting``, at every attempt to reach its broker.

        Waiting for a broker is being alive, and the loop does not turn meanwhile: it waits wherever it first
        needed the broker.
        """
        ensure = connection._ensure_connection

        def beating(errback: Callable[..., Any] | None = None, *args: Any, **kwargs: Any) -> Any:
            def on_error(exc: Exception, interval: float) -> None:
                if not isinstance(exc, AuthenticationError):  # a new password is read by a new process only
                    self.beat(busy=interval)
                waiting()
                if errback:
                    errback(exc, interval)

            self.beat()
            return ensure(on_error, *args, **kwargs)

        connection._ensure_connection = beating  # type: ignore[method-assign]
