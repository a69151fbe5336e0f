"""The commands say in one sentence what is missing."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def make(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    # Not as a part of the `make test` that runs us: make would name its level and its folder.
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *words], cwd=ROOT, env={**ours, **variables}, capture_output=True, text=True)


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """What a command printed on standard error, without make's own last line."""
    return [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]


def test_make_alone_lists_every_command():
    names = [line.split()[1] for line in make().stdout.splitlines()]
    phony = (ROOT / "Makefile").read_text().split(".PHONY: ")[1].splitlines()[0].split()
    assert sorted(names) == sorted(phony)


@pytest.mark.parametrize("command", ["up", "down", "credentials", "logs", "ps", "dev", "images", "test-stack"])
def test_without_a_docker_engine_the_way_out_is_named(command):
    done = make(command, DOCKER_HOST="unix:///nowhere.sock")
    assert done.returncode != 0
    assert said(done) == ["Docker does not answer; start it, or run `make demo`, which needs none."]


def test_an_unknown_queue_is_named(tmp_path):
    done = subprocess.run([ROOT / "scripts" / "scale-workers", "2", "typo"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "QUEUE=typo is not a queue; it is default or heavy_tasks.\n")


def test_env_example_explains_every_variable_and_all_its_lines_are_optional():
    lines = (ROOT / ".env.example").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
    explained = {line[1:].split("=")[0] for line in lines if line.startswith("#") and line[1:2].isupper()}
    compose = (ROOT / "compose.yaml").read_text()
    used = {part.split(":-")[0].split("}")[0] for part in compose.split("${")[1:]}
    assert {name for name in used if name.isupper() and not name.endswith("_FILE")} <= explained
