"""A Redis elsewhere is reached through TLS: ``rediss://``, as managed ones are."""

import signal
import subprocess
import sys
import time

import pytest

from celeriac.broker import BROKER_AWAY, PATIENCE
from celeriac.conftest import ROOT, Broker
from celeriac.models import Job
from demo.servers import free_port, wait_for_port
from tests import tasks
from tests.tls import make_certificate
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)


class TlsBroker(Broker):
    """A Redis behind a proxy that speaks TLS."""

    def start(self):
        super().start()
        self.files, self.tls_port = make_certificate(self.folder, "localhost"), free_port()
        self.url = f"rediss://localhost:{self.tls_port}/0?ssl_cert_reqs=required&ssl_ca_certs={self.files[0]}"
        self.start_proxy()

    def start_proxy(self):
        command = [sys.executable, "-m", "tests.tls", str(self.tls_port), str(self.port), *map(str, self.files)]
        self.proxy = subprocess.Popen(command, cwd=ROOT)
        wait_for_port(self.tls_port, self.proxy)

    def cut(self):
        """Every connection ends."""
        self.proxy.kill()
        self.proxy.wait()
        self.start_proxy()


@pytest.fixture
def broker(tmp_path):
    broker = TlsBroker(tmp_path)
    yield broker
    for process in (broker.proxy, broker.process):
        process.kill()
        process.wait()


def test_tasks_jobs_and_results_go_through_tls(app, broker, start_worker):
    start_worker("-c", "2", CELERY_RESULT_BACKEND=broker.url)
    results = [tasks.echo.delay(number) for number in range(20)]
    results.append(tasks.echo.delay("x" * 3_000_000))
    ids = tasks.durable_add.delay_many([[number, 1] for number in range(1500)])

    jobs = Job.objects.filter(id__in=ids, state="succeeded", attempts=1)
    eventually(lambda: jobs.count() == len(ids), 60)
    eventually(lambda: all(broker.command("EXISTS", f"celery-task-meta-{result.id}") for result in results))


def test_a_connection_that_was_cut_is_made_again(app, broker, start_worker, notes):
    start_worker("-c", "1")
    tasks.work.delay(notes.path, "before")
    eventually(lambda: "before ended" in notes())

    broker.cut()
    time.sleep(1.1)  # a connection is looked at before it is used, but for the second after an answer
    tasks.work.delay(notes.path, "after")

    eventually(lambda: "after ended" in notes())
    assert len(notes()) == 4


def test_a_redis_that_hangs_is_not_waited_for(app, broker):
    tasks.work.delay("/dev/null", "first")
    broker.process.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(BROKER_AWAY):
        tasks.work.delay("/dev/null", "second")
    assert time.monotonic() - began < 10 * PATIENCE
