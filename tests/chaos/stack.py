"""The stack under fire, under names and on ports of its own; with Celeriac's jobs, or with plain Celery."""

import fcntl
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from tests.stack.mailserver import MailServer
from tests.stack.project import Done, Stack, docker, run

IMAGE = "celeriac/app:chaos"
HERE = "tests/chaos"

Answer = TypeVar("Answer")

SCHEDULE = """
from celeriac.models import Schedule
from django.db import transaction
from django_celery_beat.models import IntervalSchedule, PeriodicTask
with transaction.atomic():
    interval, _ = IntervalSchedule.objects.get_or_create(every=2, period="seconds")
    row = PeriodicTask.objects.create(name="tick", task="chaos.tasks.tick", interval=interval, args="[0, 0]")
    Schedule.objects.create(periodic_task=row, any_task=True)  # web does not know it
"""


class ChaosStack(Stack):
    def __init__(self, folder: Path, mail: MailServer, plain: bool = False) -> None:
        self.plain, self.mail = plain, mail
        self.project = "celeriac-chaos-plain" if plain else "celeriac-chaos"
        port = 28081 if plain else 28080
        self.site = f"http://localhost:{port}"
        files = ["compose.yaml", f"{HERE}/compose.yaml", *([f"{HERE}/compose.plain.yaml"] if plain else [])]
        super().__init__(
            folder,
            COMPOSE_PROJECT_NAME=self.project,
            COMPOSE_FILE=":".join(files),
            CELERIAC_IMAGE=IMAGE,
            HTTP_PORT=str(port),
            FLOWER_PORT="25556" if plain else "25555",
            EMAIL_URL=mail.url,
            WORKER_REPLICAS="2",  # what one leaves, another takes
            WORKER_HEAVY_CONCURRENCY="2",
        )

    @contextmanager
    def running(self) -> Iterator["ChaosStack"]:
        """From nothing to a stack that takes orders, which is removed at the end.

        Raises RuntimeError while another run has the name. What a run that was killed has left is removed.
        """
        with (Path(tempfile.gettempdir()) / f"{self.project}.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RuntimeError(f"Another run has {self.project}. Wait until it is over.") from None
            self.remove()
            try:
                self.up()
                self.python("import sys; sys.path.append('/srv'); from chaos.models import create; create()")
                if not self.plain:
                    self.python(SCHEDULE)
                self.exec("web", "touch", "/var/lib/celeriac/chaos.journal")
                yield self
            finally:
                self.remove()

    # --- Stack, but under another project -------------------------------------------------------------------

    def compose(self, *arguments: str, check: bool = True, **options: Any) -> Done:
        command = ["docker", "compose", "--ansi", "never", *arguments]
        return run(command, cwd=self.folder, env=self.environment, check=check, **options)

    def ids(self, service: str = "", everything: bool = False) -> list[str]:
        filters = [f"label=com.docker.compose.project={self.project}", "label=com.docker.compose.oneoff=False"]
        if service:
            filters.append(f"label=com.docker.compose.service={service}")
        arguments = [word for each in filters for word in ("--filter", each)]
        return docker("ps", "--quiet", "--no-trunc", *(["--all"] if everything else []), *arguments).stdout.split()

    def signal(self, name: str, *pids: int) -> None:
        words = ["run", "--rm", "--network", "none", "--pid", "host", "--user", "0", "--entrypoint", "/bin/bash"]
        docker(*words, IMAGE, "-c", f"kill -{name} {' '.join(map(str, pids))}")

    # --- what faults act on -----------------------------------------------------------------------------------

    def tree(self, container: str) -> list[tuple[int, int, str]]:
        """(process id on the host, its parent's, command line) of a container's processes."""
        listed = docker("top", container, "-eo", "pid,ppid,args").stdout.splitlines()[1:]
        rows = (line.split(None, 2) for line in listed)
        return [(int(pid), int(parent), command) for pid, parent, command in rows]

    def mains(self, service: str) -> list[int]:
        """The program itself in each container of the service, which runs below an init where there is one."""
        return [main_of(self.tree(container)) for container in self.ids(service)]

    def children(self, service: str) -> list[int]:
        mains = self.mains(service)
        return [pid for each in self.ids(service) for pid, parent, _ in self.tree(each) if parent in mains]

    def sql(self, query: str) -> list[dict[str, Any]]:
        return patiently(lambda: super(ChaosStack, self).sql(query))

    def redis(self, *command: str) -> str:
        words = ("redis-cli", "--user", "chaos", "--pass", "any", "--no-auth-warning", *command)
        answer = self.exec("redis", *words).stdout.strip()
        assert "ERR" not in answer, answer
        return answer

    # --- what the ledger reads ----------------------------------------------------------------------------------

    def mails(self) -> list[tuple[int, float]]:
        """(order, when it was sent) of every mail that came."""
        return [(int(mail.get_content()), mail["Date"].datetime.timestamp()) for mail in list(self.mail.mails)]

    def unfinished(self) -> list[dict[str, Any]]:
        """Orders without an effect: their number, kind, and when they were taken (at)."""
        rows = self.sql(
            "SELECT number, kind, extract(epoch FROM created_at) AS at FROM chaos_order o "
            "WHERE NOT EXISTS (SELECT FROM chaos_effect e WHERE e.number = o.number)"
        )
        done = {number for number, _ in self.mails()}
        done |= {number for _, event, number, _ in self.journal() if event == "did"}
        return [row for row in rows if row["number"] not in done]

    def journal(self) -> list[tuple[float, str, int, str]]:
        """(when, event, order, task's id), in the order of time."""
        said = patiently(lambda: self.exec("web", "cat", "/var/lib/celeriac/chaos.journal").stdout)
        lines = (line.split() for line in said.splitlines())
        return sorted((float(at), event, int(number), task_id) for at, event, number, task_id in lines)

    def in_redis(self) -> dict[str, int]:
        """Key -> messages that nobody has taken, or nobody acknowledged."""
        queues = ("default", "heavy_tasks")
        lengths = dict.fromkeys(queues, "LLEN")
        lengths |= dict.fromkeys(["unacked"] if self.plain else (f"unacked.{queue}" for queue in queues), "HLEN")
        try:
            return {key: int(self.redis(command, key)) for key, command in lengths.items()}
        except (AssertionError, IndexError):  # it is being restarted
            return dict.fromkeys(lengths, 0)

    def jobs(self) -> dict[str, int]:
        """State -> how many."""
        rows = self.sql("SELECT state, count(*) FROM celeriac_job GROUP BY 1")
        return {row["state"]: row["count"] for row in rows}


def patiently(ask: Callable[[], Answer]) -> Answer:
    """Also while a container is being restarted: then a little later."""
    for _ in range(60):
        with suppress(AssertionError, IndexError):
            return ask()
        time.sleep(1)
    return ask()


def main_of(tree: list[tuple[int, int, str]]) -> int:
    pids = {pid for pid, _, _ in tree}
    first, _, command = next(process for process in tree if process[1] not in pids)
    return next(pid for pid, parent, _ in tree if parent == first) if command.startswith("tini") else first
