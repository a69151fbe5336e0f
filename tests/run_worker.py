"""``celery …``, with the heartbeat's clocks turned from half a minute down to seconds."""

from celery.__main__ import main

from celeriac.health import heartbeat, worker

heartbeat.ALIVE = worker.ALIVE = 3.0
heartbeat.PATIENCE = worker.PATIENCE = 8.0
heartbeat.INTERVAL = worker.INTERVAL = 0.5
worker.ACCEPT_TIMEOUT = 2.0

if __name__ == "__main__":
    main()
