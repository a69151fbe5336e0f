"""What operators see of jobs in the admin and can do with them; and what others cannot, not even by a forged POST."""

import re
from datetime import timedelta

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_results.models import TaskResult

import celeriac.jobs.admin  # noqa: F401  registers it
from celeriac.jobs import batches
from celeriac.jobs.tests.test_command import job, state
from celeriac.models import Job
from tests import tasks

LIST = "/admin/celeriac/job/"
ACTIONS = ("run_again", "cancel", "stop", "delete_selected")

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("plain_static_files")]


@pytest.fixture
def staff(client, sign_in):
    """The browser of a member of staff with these permissions."""

    def staff(*permissions):
        sign_in(*permissions, name="mina")
        return client

    return staff


@pytest.fixture
def operator(staff):
    return staff("view_job", "change_job", "view_taskresult")


@pytest.fixture
def viewer(staff):
    return staff("view_job")


def page(client, path=LIST):
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def text(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def act(client, action, *jobs, query="", **fields):
    """What the page says after an action."""
    data = {"action": action, "index": 0, "_selected_action": jobs, **fields}
    return text(client.post(LIST + query, data, follow=True).content.decode())


def change(pk):
    return f"{LIST}{pk}/change/"


def log():
    return set(LogEntry.objects.values_list("object_id", "change_message", "user__username"))


def many(count, state="failed"):
    tasks.durable_add.delay_many([[number, 1] for number in range(count)])
    batches.unfold_all()
    Job.objects.update(state=state, finished_at=timezone.now())


# --- Who may do what -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("fields", [{}, {"select_across": "1"}])
def test_who_may_only_look_changes_nothing_by_a_forged_post(viewer, action, fields):
    jobs = [job(now) for now in Job.State.values]
    before = list(Job.objects.order_by("pk").values())

    act(viewer, action, *jobs, post="yes", **fields)

    assert list(Job.objects.order_by("pk").values()) == before
    assert log() == set()


def test_who_may_only_look_is_offered_nothing(viewer):
    pk = job("failed")
    assert not any(f'value="{action}"' in page(viewer) for action in ACTIONS)
    assert "Run again" not in page(viewer, change(pk))


def test_who_may_not_look_sees_nothing(staff):
    pk = job("failed")
    nobody = staff()
    assert nobody.get(LIST).status_code == nobody.get(change(pk)).status_code == 403


def test_nobody_edits_adds_or_deletes_a_row(admin_client):
    pk = job("failed")
    before = Job.objects.values().get()

    assert admin_client.post(change(pk), {"state": "succeeded", "args": "3"}).status_code == 403
    assert admin_client.post(f"{LIST}{pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"{LIST}add/", {"id": "x"}).status_code == 403
    act(admin_client, "delete_selected", pk, post="yes")

    assert Job.objects.values().get() == before


# --- What they do --------------------------------------------------------------------------------------------------


def test_run_again_takes_failed_and_cancelled_ones_says_what_it_left_and_logs_who_did_it(operator):
    failed, cancelled, done = job("failed"), job("cancelled"), job("succeeded")

    said = act(operator, "run_again", failed, cancelled, done)

    assert "2 jobs queued again. 1 left alone, not having failed or been cancelled." in said
    assert [state(pk) for pk in (failed, cancelled, done)] == ["waiting", "waiting", "succeeded"]
    assert log() == {(failed, "Queued again.", "mina"), (cancelled, "Queued again.", "mina")}


def test_cancel_takes_waiting_and_failed_ones_and_the_row_says_by_whom(operator):
    waiting, failed, running = job(), job("failed", error="ValueError: no"), job("running")

    said = act(operator, "cancel", waiting, failed, running)

    assert "2 jobs cancelled. 1 left alone, not having been waiting or failed." in said
    assert [state(pk) for pk in (waiting, failed, running)] == ["cancelled", "cancelled", "running"]
    assert Job.objects.get(pk=waiting).error == "Cancelled by mina."
    assert log() == {(waiting, "Cancelled.", "mina"), (failed, "Cancelled.", "mina")}


def test_stop_takes_running_ones_and_says_when_no_worker_answered(operator, monkeypatch):
    monkeypatch.setattr("celeriac.jobs.operate.PATIENCE", 0.1)
    running, waiting = job("running", worker="celery@gone"), job()

    said = act(operator, "stop", running, waiting)

    assert "1 job stopped. 1 left alone, not having been running." in said
    assert "No worker said that it stopped 1 of them: it may go on, but how it ends is not kept." in said
    assert [state(pk) for pk in (running, waiting)] == ["cancelled", "waiting"]
    assert log() == {(running, "Stopped.", "mina")}


def test_all_of_a_filtered_list_are_run_again_in_batches_and_no_others(operator):
    other = job("failed", task=tasks.durable_total, args=([1],), queue="heavy_tasks")
    tasks.durable_add.delay_many([[number, 1] for number in range(1200)])
    batches.unfold_all()
    Job.objects.exclude(pk=other).update(state="failed", finished_at=timezone.now())
    some = Job.objects.exclude(pk=other)[0]

    with CaptureQueriesContext(connection) as queries:
        said = act(operator, "run_again", some.pk, query="?queue=default", select_across="1")

    assert "1,200 jobs queued again." in said
    assert (Job.objects.filter(state="waiting").count(), state(other)) == (1200, "failed")
    assert len(log()) == 1200
    assert len(queries) < 80


def test_one_click_acts_on_so_many_and_says_that_there_are_more(operator, monkeypatch):
    monkeypatch.setattr("celeriac.jobs.admin.MOST", 10)
    many(15)

    said = act(operator, "run_again", Job.objects.all()[0].pk, select_across="1")

    assert "10 jobs queued again. There may be more: do it again, or use “manage.py jobs”." in said
    assert Job.objects.filter(state="waiting").count() == 10


def test_the_buttons_of_a_page_do_what_the_actions_do(operator):
    pk = job("failed")
    shown = page(operator, change(pk))
    [form] = re.findall(r'<form method="post" action="/admin/celeriac/job/">.*?Run again.*?</form>', shown, re.DOTALL)
    fields = dict(re.findall(r'name="(\w+)" value="(\w[^"]*)"', form))

    assert operator.post(LIST, fields).status_code == 302

    assert state(pk) == "waiting"


@pytest.mark.parametrize(
    ("now", "buttons"),
    [
        ("waiting", ["Cancel"]),
        ("running", ["Stop"]),
        ("returned", []),
        ("succeeded", []),
        ("failed", ["Run again", "Cancel"]),
        ("cancelled", ["Run again"]),
    ],
)
def test_a_page_offers_what_can_be_done(operator, now, buttons):
    shown = page(operator, change(job(now)))
    assert re.findall(r"<button>([^<]+)</button>", shown) == buttons


# --- What they see -------------------------------------------------------------------------------------------------


def ago(seconds):
    return timezone.now() - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"published_at": ago(1)}, "queued"),
        ({}, "queued"),
        ({"created_at": ago(20)}, "waits for Redis"),
        ({"due_at": ago(-3600)}, "waits for its time"),
        ({"state": "running", "lease_until": ago(-9999)}, "running"),
        ({"state": "running", "lease_until": ago(10)}, "running, no sign of life"),
        ({"state": "returned"}, "ending"),
        ({"state": "succeeded"}, "done"),
        ({"state": "failed"}, "failed"),
        ({"state": "cancelled"}, "cancelled"),
    ],
)
def test_the_list_says_in_words_how_it_goes(operator, columns, words):
    job(**columns)
    assert re.findall(r'<span class="state \w+">([^<]+)</span>', page(operator)) == [words]


def test_a_line_tells_what_runs_where_and_how_long(operator):
    job(
        "failed",
        args=("x" * 100, 2),
        attempts=5,
        crashes=4,
        worker="celery@one",
        due_at=ago(200),
        started_at=ago(80),
        error="ValueError: <b>",
    )
    Job.objects.update(finished_at=ago(78))

    line = text(page(operator))

    assert "5, 4 crashed" in line
    assert "ValueError: &lt;b&gt;" in line
    assert "2 min 2.0 s default celery@one" in line
    assert "x" * 61 not in line


def test_the_page_of_one_tells_everything_and_leads_to_its_result(operator):
    trace = "Traceback (most recent call last):\n  File <x>\nValueError: no"
    pk = job("failed", error="ValueError: no", traceback=trace)
    result = TaskResult.objects.create(task_id=pk, status="FAILURE")

    shown = page(operator, change(pk))

    assert "<pre>Traceback (most recent call last):\n  File &lt;x&gt;\nValueError: no</pre>" in shown
    assert f'<a href="/admin/django_celery_results/taskresult/{result.pk}/change/">FAILURE</a>' in shown
    assert "&quot;routing_key&quot;" in shown or "&quot;queue&quot;" in shown
    assert "<input" not in shown.split('class="submit-row"')[0].split("<fieldset")[-1]


@pytest.mark.parametrize("query", ["state__exact=failed", "task=tests.tasks.durable_total", "queue=heavy_tasks"])
def test_the_list_is_filtered(operator, query):
    job()
    wanted = job("failed", task=tasks.durable_total, args=([1],), queue="heavy_tasks")

    shown = page(operator, f"{LIST}?{query}")

    assert re.findall(r'name="_selected_action" value="([^"]+)"', shown) == [wanted]


def test_a_job_is_found_by_its_id_its_arguments_its_error_and_its_task(operator):
    wanted = job("failed", args=("order 4711", 2), error="ValueError: no such order", task=tasks.durable_add)
    job(task=tasks.durable_total, args=([1],))

    for words in (wanted, "4711", "such order", "durable_ADD"):
        shown = page(operator, f"{LIST}?q={words}")
        assert re.findall(r'name="_selected_action" value="([^"]+)"', shown) == [wanted], words


def test_a_hundred_take_as_many_queries_as_one(operator, django_assert_num_queries):
    many(1)
    page(operator)
    with CaptureQueriesContext(connection) as one:
        page(operator)
    many(99)
    with django_assert_num_queries(len(one)):
        page(operator)


def test_the_list_neither_counts_a_million_rows_nor_reads_what_it_does_not_show(operator, monkeypatch):
    monkeypatch.setattr("celeriac.jobs.admin.MOST", 120)
    many(150)

    with CaptureQueriesContext(connection) as queries:
        shown = page(operator)

    about = [query["sql"] for query in queries if "celeriac_job" in query["sql"]]
    assert len(about) == 2
    assert "LIMIT 120" in about[0]
    assert "LIMIT 100" in about[1]
    assert not any(f'"celeriac_job"."{column}"' in sql for sql in about for column in ("body", "message", "traceback"))
    assert "There are more. The list ends at 120" in shown


def test_a_list_that_is_all_there_is_does_not_say_that_there_are_more(operator):
    many(3)
    assert "There are more" not in page(operator)
