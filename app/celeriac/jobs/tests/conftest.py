"""A worker that runs durable jobs, and a reconciler, on a broker that a test may do anything to."""

import pytest
from django.db import OperationalError, connection

from celeriac.broker import BROKER_AWAY
from celeriac.jobs.reconcile import Reconciler
from celeriac.models import Job
from tests.waiting import eventually


@pytest.fixture
def app(app):
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS effects (name text)")
        cursor.execute("TRUNCATE effects")
    return app


@pytest.fixture
def reconcile(app, monkeypatch):
    """One look of the reconciler, whatever the clock says; leases that ended are ended."""
    monkeypatch.setattr("celeriac.jobs.reconcile.EVERY", 0.0)
    monkeypatch.setattr("celeriac.jobs.reconcile.ON_ITS_WAY", 0)
    reconciler = Reconciler(app)
    reconciler.postgres_since = -1000.0

    return reconciler.look


@pytest.fixture
def ended(reconcile):
    """Wait until the job has ended, reconciling meanwhile; returns its row."""

    def wait(job_id, seconds=90):
        def look():
            try:
                reconcile()
            except BROKER_AWAY + (OperationalError,):  # away, as the test wanted it
                pass
            return Job.objects.filter(pk=job_id, finished_at__isnull=False).first()

        return eventually(look, seconds, f"{job_id} has ended", every=0.5)

    return wait


def effects():
    with connection.cursor() as cursor:
        cursor.execute("SELECT name FROM effects ORDER BY name")
        return [name for (name,) in cursor.fetchall()]
