"""Every way of calling, through the page, with a real worker: what is promised there happens."""

import signal
import time
from datetime import timedelta

import pytest
from django.utils import timezone
from django_celery_results.models import TaskResult

from celeriac.conftest import Broker, Worker
from celeriac.models import TrackedTask
from demos.widgets import calls
from demos.widgets.models import Widget
from tests.waiting import eventually

pytestmark = pytest.mark.django_db(transaction=True)

LIMIT = "demos.widgets.tasks.limited"


@pytest.fixture(scope="module")
def running(tmp_path_factory, django_db_setup):
    """One worker with one child for all of these tests; it reads the queue ``default``."""
    folder = tmp_path_factory.mktemp("widgets")
    broker = Broker(folder)
    limit = f'{{"{LIMIT}": {{"rate_limit": "4/s"}}}}'
    worker = Worker(broker, folder, "--concurrency", "1", CELERY_TASK_ANNOTATIONS=limit)
    yield worker, broker
    worker.signal(signal.SIGCONT)
    worker.signal(signal.SIGTERM)
    worker.process.wait(60)
    broker.stop()


@pytest.fixture
def worker(running, send_to):
    worker, broker = running
    send_to(broker.url)
    return worker


@pytest.mark.usefixtures("worker")
class TestOneTask:
    def test_delay_gives_an_id_at_once_and_the_value_when_it_is_ready(self, visitor):
        (task_id,) = visitor.start(task="mul", numbers="6 7")

        told = visitor.end(task_id)
        assert (told["label"], told["state"], told["result"]) == ("mul(6, 7)", "SUCCESS", 42)

    def test_it_is_found_again_by_its_id(self, visitor):
        (task_id,) = visitor.start(task="xsum", numbers="1 2 3")
        visitor.end(task_id)

        page = visitor.page(id=task_id)
        assert '<th scope="row">result</th><td>6</td>' in page
        assert '<th scope="row">worker</th><td>celery@' in page

    def test_a_countdown_is_waited_for(self, visitor):
        sent = time.time()
        (task_id,) = visitor.start(way="apply_async", countdown="2")

        assert visitor.end(task_id)["result"] == 5
        assert time.time() - sent >= 2

    def test_an_eta_is_waited_for(self, visitor):
        eta = timezone.now() + timedelta(seconds=2)
        (task_id,) = visitor.start(way="apply_async", eta=eta.isoformat())

        assert visitor.end(task_id)["result"] == 5
        assert timezone.now() >= eta

    def test_what_waits_longer_than_it_is_wanted_is_never_run(self, visitor):
        (task_id,) = visitor.start(way="apply_async", countdown="2", expires="1")

        told = visitor.end(task_id)
        assert (told["state"], told["word"], told["result"]) == ("REVOKED", "cancelled", None)

    def test_what_does_not_wait_is_run_before_it_expires(self, visitor):
        (task_id,) = visitor.start(way="apply_async", expires="600")

        assert visitor.end(task_id)["result"] == 5

    def test_a_task_goes_to_the_queue_that_was_chosen(self, visitor, running):
        (heavy,) = visitor.start(way="apply_async", queue="heavy_tasks")
        (here,) = visitor.start(way="apply_async", queue="default")

        assert visitor.end(here)["result"] == 5
        assert visitor.told(heavy)["state"] == "PENDING"
        assert running[1].command("LLEN", "heavy_tasks") == 1

    def test_a_higher_priority_overtakes(self, visitor, worker):
        worker.signal(signal.SIGSTOP)  # so that all of them wait in the queue
        (first,) = visitor.start()  # the message that the stopped worker may have asked for already
        (last,) = visitor.start(way="apply_async", priority="9")
        (urgent,) = visitor.start(way="apply_async", priority="0")
        worker.signal(signal.SIGCONT)

        visitor.end(last)
        assert list(TaskResult.objects.order_by("date_done").values_list("task_id", flat=True)) == [first, urgent, last]

    def test_an_ignored_result_is_kept_by_nobody_and_the_work_is_done(self, visitor):
        visitor.client.post("/widgets/new/", {"name": "old"})
        widget = Widget.objects.get()
        (task_id,) = visitor.start(task="rename_widget", widget=widget.pk, name="new", way="ignore_result")

        eventually(Widget.objects.filter(name="new").exists)
        visitor.end(*visitor.start())  # the one child has finished the task before
        assert visitor.told(task_id)["state"] == "PENDING"
        assert not TaskResult.objects.filter(task_id=task_id).exists()
        page = visitor.page()
        assert "<li>new</li>" in page
        assert f"/tasks/{task_id}/status/" not in page, "the page asks for what never comes"

    def test_debug_task_answers_with_its_own_request_as_a_table(self, visitor):
        (task_id,) = visitor.press("debug")
        visitor.end(task_id)

        table = visitor.client.get(f"/widgets/answers/{task_id}/").content.decode()
        assert f'<th scope="row">id</th><td>{task_id}</td>' in table
        assert '<th scope="row">task</th><td>config.tasks.debug_task</td>' in table
        assert '<th scope="row">queue</th><td>default</td>' in table
        assert '<th scope="row">hostname</th><td>celery@' in table


@pytest.mark.usefixtures("worker")
class TestManyTasks:
    def results(self, visitor, **fields):
        return [visitor.end(task_id)["result"] for task_id in visitor.start(**fields)]

    def test_a_group_gives_the_result_of_each(self, visitor):
        assert self.results(visitor, way="group", numbers="1 2\n3 4\n5 6") == [3, 7, 11]

    def test_a_chord_ends_with_the_sum_of_them(self, visitor):
        assert self.results(visitor, way="chord", task="mul", numbers="1 2\n3 4\n5 6") == [2, 12, 30, 44]

    def test_a_chain_hands_each_result_to_the_next(self, visitor):
        assert self.results(visitor, way="chain", task="mul", numbers="2 3\n4\n5") == [6, 24, 120]

    def test_the_largest_call_ends_too(self, visitor):
        assert self.results(visitor, way="chord", numbers="1 2\n" * 10) == [3] * 10 + [30]

    def test_no_task_is_sent_under_an_id_that_nobody_owns(self, visitor):
        visitor.end(visitor.start(way="chord", numbers="1 2\n3 4")[-1])

        ran = TaskResult.objects.values_list("task_id", flat=True)
        assert set(ran) == set(TrackedTask.objects.values_list("task_id", flat=True))


class TestRateLimit:
    def test_a_worker_keeps_to_the_limit_in_its_environment(self, visitor, worker, monkeypatch):
        monkeypatch.setattr(calls, "RUSH", 10)
        sent = time.monotonic()
        (task_id,) = visitor.press("limited")
        counts = visitor.end(task_id)["result"]

        assert time.monotonic() - sent >= (10 - 1) / 4  # one may start at once, the others at 4/s
        assert sum(row["started"] for row in counts) == 10
        table = visitor.client.get(f"/widgets/answers/{task_id}/").content.decode()
        assert f"<td>{counts[-1]['second']}</td><td>{counts[-1]['worker']}</td>" in table

    def test_each_worker_has_a_limit_of_its_own(self, visitor, broker, start_worker, send_to, monkeypatch):
        """One an hour: so whatever runs in this test is a worker's first."""
        monkeypatch.setattr(calls, "RUSH", 6)
        send_to(broker.url)
        limit = f'{{"{LIMIT}": {{"rate_limit": "1/h"}}}}'
        for name in ("one", "two"):
            start_worker("--concurrency", "1", "--hostname", f"{name}@test", CELERY_TASK_ANNOTATIONS=limit)
        visitor.press("limited")

        done = TaskResult.objects.filter(task_name=LIMIT, status="SUCCESS")
        eventually(lambda: done.count() >= 2)
        assert sorted(done.values_list("worker", flat=True)) == ["one@test", "two@test"]
