"""``python -m tests.upstream [stock] [pytest's arguments]``: Celery's integration tests on a Redis of their own.

They are part of Celery's source distribution, which is downloaded in the version that this project has, into
tests/.upstream. With ``stock`` they run against kombu's transport: what fails there is not ours.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from demo.servers import free_port, redis_server, wait_for_port

ROOT = Path(__file__).parents[2]
HOME = ROOT / "tests" / ".upstream"
PYTHON = HOME / "venv" / "bin" / "python"
#: Canvas, retries, time limits, revoke, inspect, a worker's start and end.
TESTS = [f"t/integration/test_{part}.py" for part in ("canvas", "tasks", "inspect", "worker")]


def main() -> int:
    arguments = sys.argv[1:]
    stock = arguments[:1] == ["stock"]
    source = install()
    ours = {
        "broker_transport": "celeriac.transport:Transport",
        "worker_consumer": "celeriac.worker.consumer:Consumer",
        "task_acks_late": True,  # what is acknowledged before it runs goes past the batches
    }
    config = {} if stock else ours
    (source / "integration-tests-config.json").write_text(json.dumps(config))
    with tempfile.TemporaryDirectory(prefix="celeriac-upstream-") as folder:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        redis = subprocess.Popen([redis_server(), *options], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            wait_for_port(port, redis)
            return tests(source, port, arguments[stock:] or TESTS, stock)
        finally:
            redis.kill()
            redis.wait()


def tests(source: Path, port: int, arguments: list[str], stock: bool) -> int:
    address = f"redis://127.0.0.1:{port}"
    environment = os.environ | {
        "TEST_BROKER": f"{address}/0",
        "TEST_BACKEND": f"{address}/1",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(port),
        "PYTHONPATH": f"{ROOT / 'app'}:{ROOT}:{source}:{next((ROOT / '.venv' / 'lib').glob('*/site-packages'))}",
        "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",
    }
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:django", "--timeout", "200"]
    options += [] if stock else ["-p", "tests.upstream.pool"]
    return subprocess.run([PYTHON, "-m", "pytest", *options, *arguments], cwd=source, env=environment).returncode


def install() -> Path:
    """The folder of Celery's source, without the package itself: the installed one is tested."""
    lock = (ROOT / "app" / "requirements.lock").read_text()
    wanted = [found[0] for name in ("celery", "redis") if (found := re.search(rf"^{name}(\[\w+\])?==\S+", lock, re.M))]
    source = HOME / wanted[0].replace("==", "-").replace("[redis]", "")
    if not source.exists():
        shutil.rmtree(HOME, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", HOME / "venv"], check=True)
        pip = [PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        needed = ["-r", Path(__file__).with_name("requirements.txt")]
        subprocess.run([*pip, "install", *wanted, *needed], check=True)
        version = wanted[0].replace("[redis]", "")
        subprocess.run([*pip, "download", "--no-deps", "--no-binary", "celery", "--dest", HOME, version], check=True)
        with tarfile.open(next(HOME.glob("celery-*.tar.gz"))) as archive:
            archive.extractall(HOME, filter="data")
        shutil.rmtree(source / "celery")
    return source


if __name__ == "__main__":
    sys.exit(main())
