"""A plugin for pytest: Celery's smoke tests with the images that are here, one for Redis and one for every worker."""

import itertools
import os
from typing import Any

import pytest
import pytest_celery
from django.conf import settings
from docker.errors import ImageNotFound
from docker.models.images import ImageCollection
from pytest_celery.vendors.redis import container
from pytest_docker_tools import wrappers

#: What fixtures and parameters are called that need another server, or Celery 4.
AWAY = ("rabbitmq", "memcached", "localstack", "legacy")
CLUSTERS = (pytest_celery.CELERY_BROKER_CLUSTER, pytest_celery.CELERY_BACKEND_CLUSTER)

pytest_celery.REDIS_IMAGE = container.REDIS_IMAGE = os.environ.get("REDIS_IMAGE", "redis:8-trixie")
pytest_celery.DEFAULT_WORKER_ENV["PYTHONPATH"] += ":/ours"
if loader := os.environ.get("CELERY_LOADER"):
    pytest_celery.DEFAULT_WORKER_ENV["CELERY_LOADER"] = loader

# Celery's tests speak to localhost: to published ports, also where this machine is a container itself.
wrappers.container.tests_inside_container = lambda: False
# pytest-celery looks at every object that is there, and these would look for their module.
settings.configure()

_pull = ImageCollection.pull


def pull(self: ImageCollection, repository: str, **kwargs: Any) -> Any:
    """No registry is asked for what is here: it may be out of reach."""
    try:
        return self.get(repository)
    except ImageNotFound:
        return _pull(self, repository, **kwargs)


ImageCollection.pull = pull


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    away = [item for item in items if any(word in what for word in AWAY for what in needed_by(item))]
    config.hook.pytest_deselected(items=away)
    items[:] = [item for item in items if item not in away]


def needed_by(item: Any) -> list[str]:
    """Names of its fixtures, also of those that pytest-celery asks for when a test runs."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    clusters = [item.session._fixturemanager.getfixturedefs(name, item)[-1].argnames for name in CLUSTERS]
    return [*item.fixturenames, *map(str, parameters), *itertools.chain(*clusters)]
