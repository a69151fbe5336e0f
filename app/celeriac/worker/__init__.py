"""What makes a stock Celery worker survive: reconnecting, draining, its database, its time limits, its heartbeat."""

from celery import Celery


def install(app: Celery) -> None:
    """Add the platform's steps to every worker that ``app`` starts."""
    from celeriac.health.worker import Beat
    from celeriac.jobs.leases import Leases
    from celeriac.worker import database, limits, logs
    from celeriac.worker.consumer import Reattach
    from celeriac.worker.drain import Drain
    from celeriac.worker.prefetch import Prefetch
    from celeriac.worker.prefork import Batches

    app.steps["consumer"].update({Reattach, Beat, Drain, Leases, Prefetch, Batches})
    database.install()
    limits.install()
    logs.receiver.connect_worker_signals()
