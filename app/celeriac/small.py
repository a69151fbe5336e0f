"""Web, both workers and beat from one parent, for a small host: all is loaded once, and shared after the fork.

    python -m celeriac.small GUNICORN_CONFIGURATION

Each role is what its own container would run, in a session of its own. One that ends is started again from the parent,
whatever it ended of, as Docker does with containers: after a second, and later each time while it goes on ending.
SIGTERM is passed on, and the parent ends when each role has drained. When the parent dies, the container ends.
"""

import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from celeriac import start
from celeriac.memory import settle
from config import env, settings

logger = logging.getLogger("celeriac.small")  # __name__ is __main__

#: What a role would load when it starts, or at its first work.
PRELOADED = (
    "config.wsgi",
    "gunicorn.app.wsgiapp",
    "gunicorn.workers.gthread",
    "celery.apps.worker",
    "celery.apps.beat",
    "celeriac.worker.batch",
    "celeriac.worker.results",
    "celeriac.schedules.scheduler",
)
#: What the parent waits for; blocked, so that none is missed.
SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT}
#: Seconds until a role is started again: doubled each time that it ended before it ran for so long.
AGAIN, AGAIN_AT_MOST, WELL = 1, 30, 60


@dataclass
class Role:
    name: str
    service: str
    run: Callable[[], None]
    #: Its heartbeat's file; gunicorn has none.
    heartbeat: str = ""
    pid: int = 0
    started: float = 0.0
    #: When to start it, on the monotonic clock, and how long to wait the next time.
    due: float = 0.0
    pause: float = AGAIN

    def become(self) -> None:
        """In a forked process: what was read for the parent, and is another for this service."""
        from celeriac.health import worker
        from config.celery import app

        os.environ["SERVICE"] = env.SERVICE = self.service
        settings.DATABASES["default"] |= settings.connections_of(self.service)
        if self.service != "worker" and "CELERY_RESULT_BACKEND_ALWAYS_RETRY" not in os.environ:
            app.conf.result_backend_always_retry = False
        if self.heartbeat:
            os.environ["HEARTBEAT_FILE"] = str(Path(os.environ.get("RUN_DIR", "/tmp"), self.heartbeat))  # noqa: S108
            worker.heartbeat.belong_here()

    def ended(self, status: int, stopping: bool) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # what it leaves behind, as the end of a container does
        self.pid = 0
        if stopping:
            logger.info("%s has stopped with status %d", self.name, status)
            return
        now = time.monotonic()
        self.pause = AGAIN if now - self.started > WELL else self.pause
        logger.warning("%s has ended with status %d, and is started again in %d s", self.name, status, self.pause)
        self.due, self.pause = now + self.pause, min(2 * self.pause, AGAIN_AT_MOST)


def roles(gunicorn: str) -> list[Role]:
    heavy = partial(start.worker, "heavy_tasks", str(settings.WORKER_HEAVY_CONCURRENCY))
    return [
        Role("web", "web", partial(start.web, gunicorn)),
        Role("worker", "worker", partial(start.worker, "default"), "worker-default.alive"),
        Role("worker-heavy", "worker", heavy, "worker-heavy_tasks.alive"),
        Role("beat", "beat", start.beat, "beat.alive"),
    ]


def load() -> None:
    from config.celery import app

    app.loader.import_default_modules()
    app.finalize()
    for module in PRELOADED:
        importlib.import_module(module)
    sockets = [fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and is_socket(fd)]
    if sockets or threading.active_count() > 1:  # of which a fork makes a copy that does not work
        raise env.ConfigError(
            "an app opens a connection or starts a thread when it is loaded; let its views and tasks do that, "
            "or run without compose.small.yaml."
        )
    settle()


def is_socket(fd: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    except OSError:  # of the listing itself
        return False


def supervise(roles: list[Role]) -> Role:
    """Keep all roles running until SIGTERM; returns only in their processes, with the role to be."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    stopping = False
    while True:
        for role in roles:
            if not stopping and not role.pid and role.due <= time.monotonic():
                if is_child(role):
                    return role
                logger.info("%s is process %d", role.name, role.pid)
        if stopping and not any(role.pid for role in roles):
            sys.exit()
        waiting = [role.due for role in roles if not role.pid and not stopping]
        came = signal.sigtimedwait(SIGNALS, max(0.0, min(waiting, default=time.monotonic() + 3600) - time.monotonic()))
        if came and came.si_signo != signal.SIGCHLD:
            stopping = True
            for role in roles:
                if role.pid:
                    os.kill(role.pid, signal.SIGTERM)
        for role in roles:
            if role.pid and (done := os.waitpid(role.pid, os.WNOHANG))[0]:
                role.ended(os.waitstatus_to_exitcode(done[1]), stopping)


def is_child(role: Role) -> bool:
    """Fork; true in the new process."""
    role.started = time.monotonic()
    role.pid = os.fork()
    if role.pid:
        return False
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    return True


def main() -> None:
    load()
    role = supervise(roles(sys.argv[1]))
    role.become()
    role.run()


if __name__ == "__main__":
    main()
