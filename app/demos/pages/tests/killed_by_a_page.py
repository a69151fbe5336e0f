"""For test_worker.py: in a worker that imports this, a page with the title "kill" kills whoever parses it."""

import os
import signal
from typing import Any

from demos.pages import tasks

read_html = tasks.read_html


def read_or_die(body: bytes, charset: str) -> dict[str, Any]:
    if b"<title>kill</title>" in body:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_html(body, charset)


tasks.read_html = read_or_die
