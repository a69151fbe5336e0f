"""What every demo's tests share."""

import pytest
from celery import current_app
from django.core.cache import cache

from celeriac.conftest import app, broker, notes, plain_static_files, sign_in, start_worker  # noqa: F401
from celeriac.jobs import enqueue
from celeriac.jobs.tests.conftest import ended, reconcile  # noqa: F401
from demo.servers import free_port


@pytest.fixture(autouse=True)
def _pages(request):
    """Every demo has some."""
    request.getfixturevalue("plain_static_files")


@pytest.fixture
def _no_posts_yet(db):
    """The throttle counts in the cache, whose table outlives a test that commits."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def send_to(monkeypatch):
    """``send_to(url)``: from now on the site sends its tasks there."""

    def send_to(url):
        monkeypatch.setenv("CELERY_BROKER_WRITE_URL", url)
        monkeypatch.setattr(current_app, "_pool", None)
        monkeypatch.setattr(current_app.amqp, "_producer_pool", None)
        monkeypatch.setattr(enqueue, "_resting_until", 0.0)  # and no rest is left behind
        enqueue.publisher().close()

    yield send_to
    enqueue.publisher().close()


@pytest.fixture
def broker_away(send_to):
    """Tasks are sent to a port where nobody listens, as while Redis restarts."""
    send_to(f"redis://127.0.0.1:{free_port()}/0")


@pytest.fixture
def results_away(monkeypatch):
    """Results are in a Redis that does not answer."""
    policy = {"retry_policy": {"max_retries": 1, "interval_start": 0}}
    monkeypatch.setitem(current_app.conf.changes, "result_backend_transport_options", policy)
    monkeypatch.setenv("CELERY_RESULT_BACKEND", f"redis://127.0.0.1:{free_port()}/0")
    backend = current_app._get_backend()
    backend.always_retry = False
    monkeypatch.setattr(current_app, "_backend_cache", backend)
