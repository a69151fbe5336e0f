"""Results in Postgres that wait for Postgres: ``CELERY_RESULT_BACKEND=django-db``, the default."""

from datetime import datetime

from celery import states
from django.db import InterfaceError, OperationalError, connection
from django.db.models import BooleanField, QuerySet
from django.db.models.expressions import RawSQL
from django_celery_results.backends import DatabaseBackend as StockBackend
from django_celery_results.models import ChordCounter

from celeriac.cleanup import delete_in_batches, expired_before
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

    def cleanup(self) -> None:
        """Delete what has expired, in batches; stock does it in one transaction, and keeps the counters of chords."""
        if before := expired_before(self.expires):
            delete_in_batches(dead_chords(before))  # known by their results, so before these
            delete_in_batches(self.TaskModel.objects.filter(date_done__lt=before))
            delete_in_batches(self.GroupModel.objects.filter(date_done__lt=before))


def dead_chords(before: datetime) -> QuerySet:
    """Counters of chords that can never be complete, because the result of a part has expired.

    A counter has no date, and one without any result may belong to a chord that still waits in its queue.
    """
    expired_part = RawSQL(
        """EXISTS (
            SELECT FROM jsonb_array_elements(django_celery_results_chordcounter.sub_tasks::jsonb) AS part
            JOIN django_celery_results_taskresult AS result ON result.task_id = part -> 0 ->> 0
            WHERE result.date_done < %s AND result.status = ANY(%s)
        )""",
        [before, list(states.READY_STATES)],
        output_field=BooleanField(),
    )
    return ChordCounter.objects.filter(expired_part)
