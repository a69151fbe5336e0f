"""The scheduler that beat runs: django-celery-beat's, with a heartbeat, and seeded only once."""

from functools import cached_property
from typing import Any

from django_celery_beat.schedulers import DatabaseScheduler as StockScheduler
from kombu import Connection

from celeriac.health.heartbeat import Heartbeat


class DatabaseScheduler(StockScheduler):
    """django-celery-beat's scheduler.

    Stock writes ``CELERY_BEAT_SCHEDULE`` and its own defaults over the operators' edits at every start;
    here :mod:`celeriac.schedules.seed` writes them once, and the rows belong to the admin.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.heartbeat = Heartbeat()
        self.heartbeat.beat()
        super().__init__(*args, **kwargs)

    @cached_property
    def connection(self) -> Connection:
        """The connection that runs are sent through; beat waits in it for a broker that is away."""
        connection = self.app.connection_for_write()
        self.heartbeat.beat_while_connecting(connection)
        return connection

    def setup_schedule(self) -> None:
        """Nothing is written here."""

    def tick(self, *args: Any, **kwargs: Any) -> float:
        """Send what is due; return the seconds until the next look."""
        self.heartbeat.beat()
        return super().tick(*args, **kwargs)
