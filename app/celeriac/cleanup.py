"""Deletes what is old: a batch at a time, so that neither memory, nor a lock, nor an undo grows with the table."""

from datetime import datetime, timedelta

from celery.utils.time import maybe_timedelta
from django.db.models import Q, QuerySet
from django.utils import timezone

#: Rows in one transaction; a task that its time limit ends loses the work of one.
BATCH = 5_000


def delete_in_batches(queryset: QuerySet, size: int = BATCH) -> int:
    """Delete the rows of ``queryset``, ``size`` at a time, each batch committed; returns how many there were.

    Stock clean-ups are one DELETE: what it did for half an hour is undone when it is interrupted. A batch is a
    range of the primary key among all rows, so that none walks over the rows that those before it have deleted,
    however old Postgres's statistics are.
    """
    keys = queryset.model._base_manager.using(queryset.db).order_by("pk").values_list("pk", flat=True)
    after, deleted = Q(), 0
    while True:
        last = keys.filter(after)[size - 1 : size].first()
        batch = queryset.filter(after) if last is None else queryset.filter(after, pk__lte=last)
        # The key alone is read, and only where somebody's foreign key or signal makes Django read at all.
        deleted += batch.only("pk").delete()[0]
        if last is None:
            return deleted
        after = Q(pk__gt=last)


def expired_before(expires: float | timedelta | None) -> datetime | None:
    """What is older than this has expired; ``None`` where nothing ever does: ``CELERY_RESULT_EXPIRES=0``."""
    return timezone.now() - maybe_timedelta(expires) if expires else None
