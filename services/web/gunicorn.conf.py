"""gunicorn's configuration. https://docs.gunicorn.org/en/stable/settings.html"""

import os

from celeriac.memory import settle

# Read here too, in gunicorn's parent: a wrong variable then stops the start in one sentence.
from config import settings

bind = os.environ.get("WEB_BIND", "0.0.0.0:8000")
worker_class = "gthread"
workers = settings.WEB_PROCESSES
threads = settings.WEB_THREADS
keepalive = 5  # seconds
timeout = 60
graceful_timeout = 30
# A process is replaced now and then, so that a small leak stays small; not all at the same time.
max_requests = 20_000  # pages that watch a task ask once a second
max_requests_jitter = 2_000
if os.path.isdir("/dev/shm"):  # noqa: S108
    worker_tmp_dir = "/dev/shm"  # noqa: S108  a heartbeat on a disk waits for the disk
control_socket_disable = True  # on by default since 25, and an error on a read-only file system
logconfig_dict = settings.LOGGING


# The app is loaded once, before the processes are forked, which share its memory.
preload_app = True


def when_ready(server):
    settle()


def post_worker_init(worker):
    from celeriac.health import web

    web.watch(worker.wsgi)
