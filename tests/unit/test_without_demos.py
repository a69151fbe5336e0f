"""Deleting `demos/` and its line in the settings leaves a stack that starts, migrates and passes its tests."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: What tests/servers.py sets here: the tests in the copy start servers of their own.
OURS = ("POSTGRES_", "REDIS_", "CELERY_", "DJANGO_", "STATE_DIR", "STATIC_ROOT")


@pytest.fixture
def without_demos(tmp_path: Path) -> Path:
    for folder in ("app", "demo", "services", "tests"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pytest.ini", tmp_path)
    shutil.rmtree(tmp_path / "app" / "demos")
    settings = tmp_path / "app" / "config" / "settings.py"
    lines = [line for line in settings.read_text().splitlines() if '"demos' not in line]
    settings.write_text("\n".join(lines))
    return tmp_path


def run(*command: str, cwd: Path, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(without)}
    return subprocess.run([sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True)


def test_the_stack_starts_and_migrates_without_the_demos(without_demos):
    for command in (["check"], ["makemigrations", "--check", "--dry-run"]):
        done = run("manage.py", *command, cwd=without_demos / "app")
        assert done.returncode == 0, done.stderr


@pytest.mark.timeout(1200)
def test_the_platform_passes_its_tests_without_the_demos(without_demos):
    # What waits for worker processes is left out here: it is in the run already, and imports no demo either.
    parts = [f"app/celeriac/{part}" for part in ("tests", "schedules", "worker/tests/test_drain.py")]
    chosen = ("-k", "not at_once and not longer and not soon")
    done = run("-m", "pytest", "-q", "-x", *parts, *chosen, cwd=without_demos, without=OURS)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_no_file_of_the_platform_names_a_demo():
    for folder in ("celeriac", "accounts"):
        for file in (ROOT / "app" / folder).rglob("*.py"):
            assert "demos" not in file.read_text(), file
