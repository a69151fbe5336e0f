"""The class of every task: a retry that cannot be queued is not given up."""

from typing import Any

from celery.contrib.django.task import DjangoTask
from celery.exceptions import Reject


class Task(DjangoTask):
    """Celery's task for Django, with ``delay_on_commit``."""

    def retry(self, *args: Any, **kwargs: Any) -> Any:
        """Celery's ``retry``, which drops the task for good when the broker is away at that moment.

        Here the message it came by goes back to its queue, and the attempt is made again.
        """
        try:
            return super().retry(*args, **kwargs)
        except Reject as rejected:  # celery/app/task.py: `except Exception: raise Reject(exc, requeue=False)`
            raise Reject(rejected.reason, requeue=True) from rejected
