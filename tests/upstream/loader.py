"""Ours in any Celery app, by Celery's own way: ``CELERY_LOADER=tests.upstream.loader:Loader``."""

from collections import ChainMap
from typing import Any

from celery.app.base import Celery
from celery.app.trace import LOG_RECEIVED
from celery.backends import redis
from celery.concurrency import ALIASES
from celery.loaders.app import AppLoader
from celery.worker.strategy import logger
from kombu.transport.virtual.base import RESTORING_FMT

from celeriac.app import JobsMixin
from celeriac.transport import Fetched
from celeriac.worker import prefork
from celeriac.worker.consumer import Reattach
from celeriac.worker.redis_results import RedisMixin

ALIASES["prefork"] = "celeriac.worker.prefork:TaskPool"
OURS = {
    "broker_transport": "celeriac.transport:Transport",
    "worker_consumer": "celeriac.worker.consumer:Consumer",
    "task_acks_late": True,  # what is acknowledged before it runs goes past the batches
}


class RedisBackend(JobsMixin, RedisMixin, redis.RedisBackend):
    # Some tests look for the subscription that ours makes when somebody waits, and Celery's at once.
    on_task_call = redis.RedisBackend.on_task_call


class Batches(prefork.Batches):
    """With two lines of the log that tests wait for, and that say nothing new in ours."""

    restored = 0

    def give(self, messages: list[Fetched]) -> None:
        for headers in (each.message["headers"] for each in messages):
            logger.info(LOG_RECEIVED, {"name": headers["task"], "id": headers["id"]})
        super().give(messages)

    def put_back(self, messages: list[Fetched]) -> None:
        if held := [each for each in messages if each.tag in self.channel.queue_of]:
            self.restored += len(held)
            logger.info(RESTORING_FMT.format(self.restored))
        super().put_back(messages)


class Loader(AppLoader):
    override_backends = {"redis": f"{__name__}:RedisBackend"}

    def __init__(self, app: Celery, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        app.steps["consumer"].update({Reattach, Batches})

    @property
    def conf(self) -> ChainMap[str, Any]:
        return ChainMap(super().conf or {}, OURS)
