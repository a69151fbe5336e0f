"""``python -m tests.upstream [stock] [smoke] [pytest's arguments]``: Celery's own tests, on Redis.

They are part of Celery's source distribution, which is downloaded in the version that this project has, into
tests/.upstream: those of integration, on a Redis of their own, or with ``smoke`` those that start every server and
worker in a container. With ``stock`` they run against kombu's transport: what fails there is not ours.
"""

import itertools
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from demo.servers import free_port, redis_server, wait_for_port

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
HOME = ROOT / "tests" / ".upstream"
PYTHON = HOME / "venv" / "bin" / "python"
#: Canvas, retries, time limits, revoke, inspect, a worker's start and end, its results, a connection that is lost.
PARTS = ("canvas", "group_chains", "tasks", "inspect", "worker", "redis_backend", "connection_recovery")
TESTS = [f"t/integration/test_{part}.py" for part in PARTS]


def main() -> int:
    words = list(itertools.takewhile({"stock", "smoke"}.__contains__, sys.argv[1:]))
    source = install()
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT / 'app'}:{ROOT}:{source}",
        "PATH": f"{PYTHON.parent}:{os.environ['PATH']}",
    }
    environment |= {} if "stock" in words else {"CELERY_LOADER": "tests.upstream.loader:Loader"}
    return (smoke_tests if "smoke" in words else integration_tests)(source, environment, sys.argv[1 + len(words) :])


def integration_tests(source: Path, environment: dict[str, str], arguments: list[str]) -> int:
    (source / "integration-tests-config.json").write_text("{}")
    with tempfile.TemporaryDirectory(prefix="celeriac-upstream-") as folder:
        port = free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", ""]
        redis = subprocess.Popen([redis_server(), *options], cwd=folder, stdout=subprocess.DEVNULL)
        try:
            wait_for_port(port, redis)
            address = f"redis://127.0.0.1:{port}"
            servers = {"TEST_BROKER": f"{address}/0", "TEST_BACKEND": f"{address}/1"}
            servers |= {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(port)}
            # Each in a process of its own: what some leave behind, others fail at, with stock, too.
            files = [each for each in arguments if each.startswith("t/")] or TESTS
            options = [each for each in arguments if each not in files]
            return max(pytest(source, environment | servers, *options, each) for each in files)
        finally:
            redis.kill()
            redis.wait()


def smoke_tests(source: Path, environment: dict[str, str], arguments: list[str]) -> int:
    subprocess.run([ROOT / "scripts" / "preflight", "engine"], check=True)
    build = ["docker", "build", "--quiet", "--tag", "celeriac/upstream", "--file", HERE / "Dockerfile", ROOT]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    # What Celery's repository has there, and its distribution has not.
    dockerfiles = source / "t" / "smoke" / "workers" / "docker"
    dockerfiles.mkdir(exist_ok=True)
    for name in ("dev", "pypi"):
        (dockerfiles / name).write_text("FROM celeriac/upstream\n")
    (source / "t" / "smoke" / "redis.conf").touch()
    options = ["-p", "tests.upstream.smoke", "-o", "testpaths=t/smoke", "--ignore-glob", "*memcached*"]
    return pytest(source, environment, *options, *arguments)


def pytest(source: Path, environment: dict[str, str], *arguments: str) -> int:
    options = ["-q", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "no:django", "--timeout", "200"]
    return subprocess.run([PYTHON, "-m", "pytest", *options, *arguments], cwd=source, env=environment).returncode


def install() -> Path:
    """The folder of Celery's source, without the package itself: the installed one is tested."""
    lock = ROOT / "app" / "requirements.lock"
    celery = re.search(r"^celery==[\w.]+", lock.read_text(), re.M)[0]
    source = HOME / celery.replace("==", "-")
    if not source.exists():
        shutil.rmtree(HOME, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", HOME / "venv"], check=True)
        pip = [PYTHON, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--require-hashes", "-r", lock], check=True)
        subprocess.run([*pip, "install", "-r", HERE / "requirements.txt"], check=True)
        subprocess.run([*pip, "download", "--no-deps", "--no-binary", "celery", "--dest", HOME, celery], check=True)
        with tarfile.open(next(HOME.glob("celery-*.tar.gz"))) as archive:
            archive.extractall(HOME, filter="data")
        shutil.rmtree(source / "celery")
    return source


if __name__ == "__main__":
    sys.exit(main())
