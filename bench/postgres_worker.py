"""``celery worker``, without the check of the connection before each task when ``UNCHECKED`` is set."""

import os

from celery import signals
from celery.__main__ import main

from celeriac.worker import database

if os.environ.get("UNCHECKED"):
    signals.worker_init.connect(lambda **_: signals.task_prerun.disconnect(database.check_connections), weak=False)

if __name__ == "__main__":
    main()
