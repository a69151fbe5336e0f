"""The stack as its tests use it: a copy of the repository, started by ``make up`` as a user would."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.stack.visitor import Answer, Visitor
from tests.waiting import eventually

ROOT = Path(__file__).parents[2]
PROJECT = "celeriac-test"
IMAGE = "celeriac/app:test"  # a name of its own: the image of a stack that runs here stays as it is
SITE_PORT, FLOWER_PORT = 18080, 15555

#: One-shots end; the others are healthy or something is wrong.
ONE_SHOTS = ("secrets", "migrate")
SERVICES = ("postgres", "redis", "web", "worker", "worker-heavy", "beat", "flower", "nginx")

#: What a command of the tests gets of their own environment, where their own servers' variables are, too.
KEPT = re.compile(r"PATH|HOME|USER|LANG|TMPDIR|XDG_.*|DOCKER_.*|BUILDKIT_.*|SSL_.*|(?i:(http|https|no)_proxy)")
#: Base images under other names; everything else that configures the stack is the tests' business.
KEPT_TOO = ("PYTHON_IMAGE", "POSTGRES_IMAGE", "REDIS_IMAGE", "NGINX_IMAGE")

Done = subprocess.CompletedProcess[str]


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if KEPT.fullmatch(name) or name in KEPT_TOO}


def docker(*arguments: str, check: bool = True, **options: Any) -> Done:
    return run(["docker", *arguments], check=check, **options)


def run(command: Sequence[str], check: bool = True, timeout: float = 900, **options: Any) -> Done:
    __tracebackhide__ = True
    options = {"env": clean_environment(), "stdin": None if "input" in options else subprocess.DEVNULL, **options}
    done = subprocess.run(command, text=True, capture_output=True, timeout=timeout, check=False, **options)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done


def fresh_clone(folder: Path) -> Path:
    """What ``git clone`` would give if everything were committed."""
    listed = run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # deleted and not committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


class Stack:
    """One running stack, under a project name and on ports of its own."""

    project, services = PROJECT, SERVICES
    files = "compose.yaml:tests/stack/compose.yaml"
    site = f"http://localhost:{SITE_PORT}"
    flower = f"http://localhost:{FLOWER_PORT}"

    def __init__(self, folder: Path, **variables: str) -> None:
        self.folder = folder
        self.environment = {
            **clean_environment(),
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_FILE": self.files,
            "CELERIAC_IMAGE": IMAGE,
            "HTTP_PORT": self.site.rpartition(":")[2],
            "FLOWER_PORT": self.flower.rpartition(":")[2],
            **variables,
        }

    # --- commands ---------------------------------------------------------------------------------------

    def make(self, *arguments: str, check: bool = True) -> Done:
        """``make``, typed by a user in the clone."""
        return run(["make", *arguments], cwd=self.folder, env=self.environment, check=check)

    def compose(self, *arguments: str, check: bool = True, **options: Any) -> Done:
        command = ["docker", "compose", "--ansi", "never", "-p", self.project, *arguments]
        return run(command, cwd=self.folder, env=self.environment, check=check, **options)

    def up(self) -> Done:
        return self.make("up")

    def remove(self) -> None:
        self.compose("down", "--volumes", "--remove-orphans", "--timeout", "3")

    # --- containers ---------------------------------------------------------------------------------------

    def ids(self, service: str = "", everything: bool = False) -> list[str]:
        filters = [f"label=com.docker.compose.project={self.project}", "label=com.docker.compose.oneoff=False"]
        if service:
            filters.append(f"label=com.docker.compose.service={service}")
        arguments = [word for each in filters for word in ("--filter", each)]
        return docker("ps", "--quiet", "--no-trunc", *(["--all"] if everything else []), *arguments).stdout.split()

    def containers(self, service: str = "") -> list[dict[str, Any]]:
        """What ``docker inspect`` says, of stopped ones, too; the oldest first."""
        ids = self.ids(service, everything=True)
        found = json.loads(docker("inspect", *ids).stdout) if ids else []
        return sorted(found, key=lambda container: container["Created"])

    def container(self, service: str) -> dict[str, Any]:
        (one,) = self.containers(service)
        return one

    def exec(self, service: str, *command: str, check: bool = True, **options: Any) -> Done:
        flags = ["--interactive"] if "input" in options else []
        return docker("exec", *flags, self.ids(service)[0], *command, check=check, **options)

    def can(self, service: str, script: str) -> bool:
        return self.exec(service, "bash", "-c", script, check=False).returncode == 0

    def logs(self, *services: str, **options: str) -> str:
        flags = [word for name, value in options.items() for word in (f"--{name}", value)]
        done = self.compose("logs", "--no-color", "--no-log-prefix", *flags, *services)
        return (done.stdout + done.stderr).replace("\x1b[2K", "")  # Compose clears lines on no terminal, too

    def health(self) -> dict[str, str]:
        """Service -> ``healthy``, or whatever the worst of its containers is; a missing one is ``away``."""
        states = dict.fromkeys(self.services, "away")
        for container in self.containers():
            service, state = (container["Config"]["Labels"]["com.docker.compose.service"], container["State"])
            if service in ONE_SHOTS:
                continue
            now = state.get("Health", {}).get("Status", "unchecked") if state["Running"] else state["Status"]
            if states[service] in {"away", "healthy"}:
                states[service] = now
        return states

    def healthy(self, seconds: float = 180) -> None:
        """Wait until every service is healthy, by itself."""
        eventually(lambda: not (self.ill()), seconds, "every service is healthy", every=0.5)

    def ill(self) -> dict[str, str]:
        return {service: health for service, health in self.health().items() if health != "healthy"}

    def pids(self, service: str) -> list[tuple[int, int, str]]:
        """(process id on the host, its parent's, command line) of the service's processes."""
        listed = docker("top", self.ids(service)[0], "-eo", "pid,ppid,args").stdout.splitlines()[1:]
        rows = (line.split(None, 2) for line in listed)
        return [(int(pid), int(parent), command) for pid, parent, command in rows]

    def main_pid(self, service: str) -> int:
        """The program itself, which runs below an init where there is one."""
        pids = self.pids(service)
        first = self.container(service)["State"]["Pid"]
        if not any(pid == first and command.startswith("tini") for pid, _, command in pids):
            return first
        return next(pid for pid, parent, _ in pids if parent == first)

    def signal(self, name: str, *pids: int) -> None:
        """From a container that sees the host's processes: needs no root here, and ``docker kill`` counts as
        a stop by hand, after which no restart policy acts."""
        words = ["run", "--rm", "--network", "none", "--pid", "host", "--user", "0", "--entrypoint", "/bin/bash"]
        docker(*words, IMAGE, "-c", f"kill -{name} {' '.join(map(str, pids))}")

    # --- what the tests look at ---------------------------------------------------------------------------

    def credentials(self) -> dict[str, tuple[str, str]]:
        """``Admin`` and ``Flower`` -> user and password, as ``make credentials`` prints them."""
        lines = (line.split() for line in self.make("credentials").stdout.splitlines())
        return {words[0]: (words[2], words[3]) for words in lines if words[0] in {"Admin", "Flower"}}

    def visitor(self) -> Visitor:
        return Visitor(self.site)

    def admin(self) -> Visitor:
        """Someone who is logged in to the admin."""
        visitor = self.visitor()
        answer = visitor.log_in(*self.credentials()["Admin"])
        assert answer.status == 302, "the admin's password is refused"
        return visitor

    def flower_user(self) -> Visitor:
        return Visitor(self.flower, *self.credentials()["Flower"])

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Rows of the database, by the socket inside Postgres's container."""
        query = f"SELECT coalesce(json_agg(t), '[]') FROM ({query}) t"
        script = 'exec psql -qAt -U "$POSTGRES_USER" -d "$POSTGRES_DB"'
        return json.loads(self.exec("postgres", "sh", "-c", script, input=query).stdout)

    def python(self, code: str, service: str = "web") -> str:
        """Run ``code`` beside the service, with Django set up and Celery's ``app``."""
        code = f"from config import celery_app as app; import django; django.setup()\n{code}"
        return self.exec(service, "python", "-c", code).stdout

    def send(self, task: str, *args: Any, **options: Any) -> str:
        """Queue a task and return its id."""
        return self.python(f"print(app.send_task({task!r}, {args!r}, **{options!r}).id)").strip().splitlines()[-1]

    def results(self, where: str) -> list[dict[str, Any]]:
        return self.sql(f"SELECT * FROM django_celery_results_taskresult WHERE {where} ORDER BY id")

    def result(self, task_id: str, seconds: float = 90) -> dict[str, Any]:
        """The row of a task that has ended."""
        ended = f"task_id = '{task_id}' AND status IN ('SUCCESS', 'FAILURE')"
        return eventually(lambda: self.results(ended), seconds, f"task {task_id} has ended")[0]

    def notes(self, path: str) -> list[str]:
        """What ``tests.tasks`` have noted so far."""
        return self.exec("worker", "cat", path, check=False).stdout.splitlines()

    # --- the feedback demo --------------------------------------------------------------------------------

    def give_feedback(self, message: str, visitor: Visitor | None = None) -> Answer:
        """Fill in the form and send it; the answer leads to the page that follows the mail."""
        return (visitor or self.visitor()).submit("/feedback/", email="ada@example.org", message=message)

    def feedback_state(self, page: str) -> str:
        """What the page of a feedback says, or an empty text while the site is away."""
        found = re.search(r'<ol class="steps (\w+)"', self.visitor().get(page).text)
        return found[1] if found else ""

    def delivered(self, page: str, seconds: float = 120) -> None:
        eventually(lambda: self.feedback_state(page) == "delivered", seconds, f"{page} is delivered")
