"""Runs the stack's own command lines, each in a process and an environment of its own."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
APP = ROOT / "app"
#: What such a process gets of the tests' own environment: the servers, and secrets that are none of these.
KEPT = ("HOME", "STATE_DIR", "DJANGO_SECRET_KEY", "REDIS_HOST", "REDIS_PORT", "REDIS_PASSWORD")
KEPT += ("POSTGRES_HOST", "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD")


def environment(**variables: str | None) -> dict[str, str]:
    """A clean environment, with ``variables`` laid over it; ``None`` takes one out."""
    kept: dict[str, str | None] = {name: os.environ.get(name) for name in KEPT}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {name: value for name, value in {**kept, "PATH": path, **variables}.items() if value is not None}


def run(*command: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=APP,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def evaluate(expression: str, **variables: str | None) -> str:
    """``expression`` as a new process sees it that has imported ``settings`` and Celery's ``app``."""
    code = f"from config import settings; from config.celery import app; print({expression})"
    done = run(sys.executable, "-c", code, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def running(*command: str, log: Path, **variables: str | None) -> Iterator[subprocess.Popen[bytes]]:
    """``command`` in the background, its output in ``log``; ended with the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=APP, env=environment(**variables), stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
