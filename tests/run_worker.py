"""``celery …``, with clocks turned from half a minute down to seconds for those tests that ask for it."""

import os

from celery.__main__ import main

from celeriac.health import heartbeat, worker
from celeriac.jobs import execution

execution.RENEW = int(os.environ.get("RENEW", execution.RENEW))
if os.environ.get("QUICK_HEARTBEAT"):
    heartbeat.ALIVE = worker.ALIVE = 5.0
    heartbeat.PATIENCE = worker.PATIENCE = 8.0
    heartbeat.INTERVAL = worker.INTERVAL = 0.5
    worker.ACCEPT_TIMEOUT = 2.0

if __name__ == "__main__":
    main()
