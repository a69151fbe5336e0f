"""Starts a role: ``python -m celeriac.start worker QUEUE``, ``… beat``, ``… flower CONFIGURATION``.

The ``celery`` command does it, too, but loads every command it has, an interactive shell and Flower into each of them.
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celeriac.memory import give_back
from config import settings

# The checks load every view, form and admin; `manage.py prepare` has made them.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")


def worker(queue: str, concurrency: str | None = None) -> None:
    """A worker that reads one queue. Its node is named <queue>@<host>."""
    from celery.utils.nodenames import host_format

    from config.celery import app

    node = app.Worker(
        hostname=host_format(f"{queue}@%h"),
        queues=[queue],
        concurrency=int(concurrency) if concurrency else None,
        loglevel=settings.LOG_LEVEL,
        quiet=True,
    )
    node.start()
    sys.exit(node.exitcode)


def web(configuration: str) -> None:
    """gunicorn, as its own command starts it."""
    from gunicorn.app.wsgiapp import WSGIApplication

    sys.argv = ["gunicorn", "--config", configuration, "config.wsgi:application"]
    WSGIApplication(prog="gunicorn").run()


def beat() -> None:
    from config.celery import app

    scheduler = app.Beat(loglevel=settings.LOG_LEVEL, quiet=True)
    scheduler.init_loader()
    give_back()
    scheduler.start_scheduler()


def flower(configuration: str) -> None:
    """Flower as its own command starts it."""
    import atexit
    import signal

    from flower import command
    from flower.app import Flower
    from flower.urls import settings
    from tornado.options import options

    command.apply_env_options()
    command.apply_options("flower", [f"--conf={configuration}"])
    command.extract_settings()
    command.setup_logging()
    shown = Flower(capp=watched(options.read_only), options=options, **settings)
    atexit.register(shown.stop)
    signal.signal(signal.SIGTERM, command.sigterm_handler)
    shown.start_http_server()
    give_back()
    with suppress(KeyboardInterrupt, SystemExit):
        shown.start()


def watched(read_only: bool) -> Any:
    """The Celery app that Flower shows: who may only look needs the broker, and neither Django nor the tasks."""
    if not read_only:
        from config.celery import app

        return app
    from celery import Celery

    os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    app = Celery("config")
    app.config_from_object(settings, namespace="CELERY")
    app.conf.update(imports=(), include=(), result_backend=None)
    return app


def main() -> None:
    role, *arguments = sys.argv[1:]
    roles: dict[str, Callable[..., None]] = {"web": web, "worker": worker, "beat": beat, "flower": flower}
    roles[role](*arguments)


if __name__ == "__main__":
    main()
