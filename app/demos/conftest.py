"""What every demo's tests share."""

import pytest
from django.core.cache import cache

from celeriac.conftest import broker, notes, start_worker  # noqa: F401  for tests with a real worker


@pytest.fixture(autouse=True)
def _plain_static_files(settings):
    """Pages name static files as they are: tests need no collectstatic."""
    backend = "django.contrib.staticfiles.storage.StaticFilesStorage"
    settings.STORAGES = {**settings.STORAGES, "staticfiles": {"BACKEND": backend}}


@pytest.fixture
def _no_posts_yet(db):
    """The throttle counts in the cache, whose table outlives a test that commits."""
    cache.clear()
    yield
    cache.clear()
