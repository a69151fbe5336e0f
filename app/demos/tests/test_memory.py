"""What a worker does not hold in memory until a task needs it."""

import sys

from tests.processes import run

CODE = """
import sys
from config.celery import app
app.loader.import_default_modules()
print([name for name in ("demos.views", "PIL", "httpx") if name in sys.modules])
"""


def test_a_worker_loads_no_pages_and_neither_pillow_nor_httpx_before_a_task_does():
    done = run(sys.executable, "-c", CODE, SERVICE="worker", CELERY_SKIP_CHECKS="1")
    assert done.stdout.strip() == "[]", done.stderr
