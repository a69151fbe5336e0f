"""Pytest plugin: a real Postgres and Redis for the whole run, started before Django reads its settings."""

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from demo.servers import servers

_running = ExitStack()

ENVIRONMENT = {
    "DJANGO_SETTINGS_MODULE": "config.settings",
    "DJANGO_SECRET_KEY": "only-for-tests-8c1f4d0f5b7e4f7d9a53f1b2c3d4e5f6",
    "PUBLIC_URL": "http://localhost:8080",
    "LOG_LEVEL": "WARNING",
}


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    # Below /tmp, and readable on the way down: Postgres runs as another user when we are root.
    root = _running.enter_context(tempfile.TemporaryDirectory(prefix="celeriac-tests-", ignore_cleanup_errors=True))
    Path(root).chmod(0o755)
    os.environ.update(ENVIRONMENT, STATE_DIR=f"{root}/state", STATIC_ROOT=f"{root}/static")
    for folder in ("state/mail", "state/media/spool", "static"):
        Path(root, folder).mkdir(parents=True)
    os.environ.update(_running.enter_context(servers(Path(root), "only-for-tests-redis")))


def pytest_configure() -> None:
    """What Hypothesis says about time is about this machine, and not about us."""
    from hypothesis import HealthCheck, settings

    settings.register_profile("noisy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("noisy")


def pytest_unconfigure() -> None:
    _running.close()
