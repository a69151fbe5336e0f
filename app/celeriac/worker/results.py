"""Results in Postgres that wait for Postgres: ``CELERY_RESULT_BACKEND=django-db``, the default."""

from django.db import InterfaceError, OperationalError, connection
from django_celery_results.backends import DatabaseBackend as StockBackend

from celeriac.health.worker import heartbeat


class DatabaseBackend(StockBackend):
    """django-celery-results' backend, which would run a task and drop its result while Postgres restarts."""

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether storing can be tried again: always, when it was the connection that failed."""
        if not isinstance(exc, (OperationalError, InterfaceError)):
            return False
        connection.close()
        heartbeat.beat()  # the main process stores results, too, for children that died: waiting is being alive
        return True
