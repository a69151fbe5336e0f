"""``celery worker`` with the idle time after which a connection is checked (seconds) from ``CHECK_AFTER``."""

import os

from celery.__main__ import main

from celeriac.worker import database

database.IDLE = float(os.environ["CHECK_AFTER"])

if __name__ == "__main__":
    main()
