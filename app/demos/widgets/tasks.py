"""The tasks of Celery's Django example, and one with a rate limit."""

import time
from collections import Counter
from typing import Any

from celery import Task, shared_task

from demos.widgets.models import Widget


@shared_task
def add(x: int, y: int) -> int:
    return x + y


@shared_task
def mul(x: int, y: int) -> int:
    return x * y


@shared_task
def xsum(numbers: list[int]) -> int:
    return sum(numbers)


@shared_task
def count_widgets() -> int:
    return Widget.objects.count()


@shared_task
def rename_widget(widget_id: int, name: str) -> str:
    """Takes an id, and writes one column: what others changed in the row meanwhile stays, and twice does no harm."""
    if not Widget.objects.filter(pk=widget_id).update(name=name):
        raise Widget.DoesNotExist(f"Widget {widget_id} has been deleted.")
    return name


# The default; CELERY_TASK_ANNOTATIONS={"demos.widgets.tasks.limited": {"rate_limit": "2/s"}} sets another one.
@shared_task(bind=True, rate_limit="10/s")
def limited(self: Task) -> dict[str, Any]:
    """Tell which worker ran this, and when."""
    return {"worker": self.request.hostname, "at": time.time()}


@shared_task
def count_starts(starts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """How many of the limited tasks each worker started in each second after the first start."""
    first = min(start["at"] for start in starts)
    counts = Counter((int(start["at"] - first) + 1, start["worker"]) for start in starts)
    return [{"second": second, "worker": worker, "started": n} for (second, worker), n in sorted(counts.items())]
