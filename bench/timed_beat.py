"""``celery beat …``, which writes the seconds of each of its scheduler's ticks to the file TICKS when it ends."""

import atexit
import json
import os
import time
from pathlib import Path
from typing import Any

from celery import beat
from celery.__main__ import main

ticks: list[float] = []
make_scheduler = beat.Service.get_scheduler


def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
    scheduler = make_scheduler(self, *args, **kwargs)
    tick = scheduler.tick

    def measured() -> Any:
        began = time.perf_counter()
        try:
            return tick()
        finally:
            ticks.append(time.perf_counter() - began)

    scheduler.tick = measured
    return scheduler


if __name__ == "__main__":
    beat.Service.get_scheduler = timed
    atexit.register(lambda: Path(os.environ["TICKS"]).write_text(json.dumps(ticks)))
    main()
