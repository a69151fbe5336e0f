"""The web process: ``/healthz`` (alive) and ``/readyz`` (can serve), answered in front of Django.

In front, because neither a host name, nor a session, nor a redirect to https should decide whether a probe
sees the truth. nginx does not pass these two on.
"""

import faulthandler
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from django.conf import settings

from celeriac.health.heartbeat import ALIVE, INTERVAL, PATIENCE

#: Seconds that the database and the broker each have to answer /readyz.
ANSWER = 2

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Health:
    """WSGI middleware: answers the probes and keeps the time at which each thread took its request."""

    def __init__(self, app: WSGIApp) -> None:
        self.app = app
        self.busy_since: dict[int, float] = {}

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == "/healthz":
            return _answer(start_response, {"alive": True}, ok=True)
        thread = threading.get_ident()
        self.busy_since[thread] = time.monotonic()
        try:
            if path == "/readyz":  # counts as a request: a frozen Postgres would hold its thread, too
                checks = readiness()
                return _answer(start_response, checks, ok=all(value == "ok" for value in checks.values()))
            return self.app(environ, start_response)
        finally:
            self.busy_since.pop(thread, None)

    def stuck(self, threads: int, after: float) -> bool:
        """Whether all ``threads`` have been in their current request for more than ``after`` seconds."""
        now, since = time.monotonic(), list(self.busy_since.values())
        return len(since) >= threads and all(now - start > after for start in since)


def _answer(start_response: Callable[..., Any], body: dict[str, Any], ok: bool) -> Iterable[bytes]:
    headers = [("Content-Type", "application/json"), ("Cache-Control", "no-store")]
    start_response("200 OK" if ok else "503 Service Unavailable", headers)
    return [json.dumps(body).encode()]


def readiness() -> dict[str, str]:
    """``ok`` or one sentence for each of: database with migrations, broker. Takes seconds if one is away."""
    return {"database": _database(), "broker": _broker()}


_migrated = False


def _database() -> str:
    from django.db import connection, connections
    from django.db.migrations.executor import MigrationExecutor

    global _migrated
    try:
        if pool := getattr(connection, "pool", None):
            # Its own timeout is for requests, and longer than a probe waits.
            pool.open()
            pool.putconn(pool.getconn(timeout=ANSWER))
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        if not _migrated:  # asked until it is true: migrations do not go away under a running process
            executor = MigrationExecutor(connection)
            waiting = executor.migration_plan(executor.loader.graph.leaf_nodes())
            if waiting:
                return f"{len(waiting)} migrations are waiting; run `manage.py migrate`"
            _migrated = True
        return "ok"
    except Exception as error:  # whatever it is, this process cannot serve
        return f"the database does not answer: {type(error).__name__}"
    finally:
        connections.close_all()


def _broker() -> str:
    from config.celery import app

    try:
        with app.connection_for_write(connect_timeout=ANSWER) as connection:
            connection.ensure_connection(max_retries=1, interval_start=0, timeout=ANSWER)
            connection.default_channel.client.ping()
        return "ok"
    except Exception as error:
        return f"the broker does not answer: {type(error).__name__}"


def watch(health: Health) -> None:
    """End this gunicorn worker when all its threads are stuck; gunicorn starts another.

    gunicorn's own timeout does not see it: with gthread it watches the main thread, which goes on turning.
    """

    def look() -> None:
        while True:
            time.sleep(INTERVAL)
            if health.stuck(settings.WEB_THREADS, ALIVE + PATIENCE):
                print("all threads are stuck in their requests; this process ends itself", file=sys.stderr)  # noqa: T201
                faulthandler.dump_traceback(all_threads=True)
                os._exit(1)

    threading.Thread(target=look, name="watch", daemon=True).start()
