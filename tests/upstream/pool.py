"""A plugin for pytest: Celery's own tests, with our pool where they ask for prefork."""

from typing import Any

from celery.app.base import Celery
from celery.backends.redis import RedisBackend
from celery.concurrency import ALIASES

from celeriac.app import JobsMixin
from celeriac.worker.consumer import Reattach
from celeriac.worker.prefork import Batches
from celeriac.worker.redis_results import RedisMixin

ALIASES["prefork"] = "celeriac.worker.prefork:TaskPool"
_init, _get_backend = Celery.__init__, Celery._get_backend


def init(self: Celery, *args: Any, **kwargs: Any) -> None:
    _init(self, *args, **kwargs)
    self.steps["consumer"].update({Reattach, Batches})


def get_backend(self: Celery) -> Any:
    backend = _get_backend(self)
    if type(backend) is RedisBackend:
        # Some tests look for the subscription that ours makes when somebody waits, and Celery's at once.
        early = {"on_task_call": RedisBackend.on_task_call}
        backend.__class__ = type("RedisBackend", (JobsMixin, RedisMixin, RedisBackend), early)
    return backend


Celery.__init__ = init  # type: ignore[method-assign]
Celery._get_backend = get_backend  # type: ignore[method-assign]
