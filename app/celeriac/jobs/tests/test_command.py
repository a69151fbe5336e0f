"""``manage.py jobs``: what operators and their scripts are told, and what happens."""

import json
import sys
from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone
from django_celery_results.models import TaskResult

from celeriac.jobs import batches
from celeriac.models import Job
from tests import tasks
from tests.processes import run

pytestmark = pytest.mark.django_db

STATES = Job.State.values


def job(state="waiting", args=(1, 2), task=tasks.durable_add, **columns):
    """A job as ``delay`` writes it, in this state."""
    pk = task.delay(*args).id
    ended = {"finished_at": timezone.now()} if state in ("succeeded", "failed", "cancelled") else {}
    Job.objects.filter(pk=pk).update(state=state, **ended, **columns)
    return pk


def jobs(*words):
    """What the command writes to its standard output."""
    out = StringIO()
    call_command("jobs", *words, stdout=out)
    return out.getvalue()


def as_json(*words):
    return json.loads(jobs(*words, "--json"))


def ids(*words):
    return {found["id"] for found in as_json("list", *words)}


def state(pk):
    return Job.objects.get(pk=pk).state


# --- list ----------------------------------------------------------------------------------------------------------


def test_the_list_is_filtered_by_state_task_queue_and_age():
    failed, other = job("failed", error="ValueError: no"), job(task=tasks.durable_total, args=([1],))
    old = job("failed", queue="heavy_tasks", created_at=timezone.now() - timedelta(days=2))

    assert ids() == {failed, other, old}
    assert ids("--state", "failed") == {failed, old}
    assert ids("--task", "tests.tasks.durable_total") == {other}
    assert ids("--task", "*_add") == {failed, old}
    assert ids("--task", "tests?tasks?durable_tota?") == {other}
    assert ids("--task", "durable_*") == set()
    assert ids("--queue", "heavy_tasks") == {old}
    assert ids("--since", "3h") == {failed, other}
    assert ids("--since", f"{timezone.now() - timedelta(days=3):%Y-%m-%d}") == {failed, other, old}
    assert ids("--state", "failed", "--since", "30m") == {failed}


def test_a_dot_in_a_pattern_is_a_dot():
    job()
    assert ids("--task", "testsXtasks*") == ids("--task", "tests.tas.s*") == set()


def test_the_list_is_of_the_newest_fifty_or_as_many_as_are_asked_for():
    newest = tasks.durable_add.delay_many([[number, 1] for number in range(60)])[-1]
    Job.objects.exclude(pk=newest).update(created_at=timezone.now() - timedelta(hours=1))

    listed = as_json("list")

    assert (len(listed), listed[0]["id"]) == (50, newest)
    assert len(as_json("list", "--limit", "3")) == 3


def test_the_table_has_a_line_for_each_job_whatever_is_in_it():
    pk = job("failed", args=("\x1b[2J\nx", 2), error="ValueError: \x1b[31mred\nsecond line")

    header, line = jobs("list").splitlines()

    assert header.split() == ["ID", "TASK", "STATE", "QUEUE", "TRIED", "CRASHED", "AGE", "ARGUMENTS", "ERROR"]
    assert line.startswith(f"{pk}  tests.tasks.durable_add  failed  default  0")
    assert "\x1b" not in line


def test_an_empty_list_says_so():
    assert jobs("list") == "No jobs.\n"
    assert as_json("list") == []


# --- show ----------------------------------------------------------------------------------------------------------


def test_show_tells_everything():
    pk = job("failed", error="ValueError: no", traceback="Traceback\n  File x\nValueError: no", attempts=3, crashes=1)

    text, [shown] = jobs("show", pk), as_json("show", pk)

    for word in (pk, "tests.tasks.durable_add", "failed", "ValueError: no", "  File x", '"retries": 0'):
        assert word in text
    assert (shown["attempts"], shown["crashes"], shown["args"]) == (3, 1, "1, 2")
    assert shown["message"]["headers"]["id"] == pk
    assert shown["body"][0] == [1, 2]
    assert shown["traceback"].endswith("ValueError: no")


# --- retry ---------------------------------------------------------------------------------------------------------


def test_named_jobs_are_run_again():
    failed, cancelled, other = job("failed"), job("cancelled"), job("failed")

    assert as_json("retry", failed, cancelled) == {"queued_again": 2, "refused": {}, "may_still_run": []}

    assert [state(pk) for pk in (failed, cancelled, other)] == ["waiting", "waiting", "failed"]


def test_without_ids_the_failed_ones_that_are_meant_are_run_again_and_no_others():
    failed, cancelled, other = job("failed"), job("cancelled"), job("failed", task=tasks.durable_total, args=([1],))

    assert jobs("retry", "--task", "*_add") == "1 job queued again.\n"

    assert [state(pk) for pk in (failed, cancelled, other)] == ["waiting", "cancelled", "failed"]


def test_cancelled_ones_are_run_again_in_bulk_when_that_is_said():
    cancelled = job("cancelled")
    assert as_json("retry", "--state", "cancelled")["queued_again"] == 1
    assert state(cancelled) == "waiting"


def test_all_that_failed_are_run_again_in_batches(monkeypatch):
    monkeypatch.setattr("celeriac.jobs.operate.BATCH", 100)
    tasks.durable_add.delay_many([[number, 1] for number in range(1050)])
    batches.unfold_all()
    Job.objects.update(state="failed", finished_at=timezone.now())

    assert jobs("retry", "--all") == "1,050 jobs queued again.\n"
    assert Job.objects.filter(state="waiting").count() == 1050


def test_a_limit_takes_the_oldest():
    young, old = job("failed"), job("failed", created_at=timezone.now() - timedelta(days=1))

    jobs("retry", "--limit", "1")

    assert (state(young), state(old)) == ("failed", "waiting")


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ("waiting", "waits already"),
        ("running", "is running"),
        ("returned", "has had its effect and is about to end"),
        ("succeeded", "has succeeded"),
    ],
)
def test_one_that_cannot_be_run_again_is_named_with_the_reason_and_the_others_run(now, why):
    pk, failed = job(now), job("failed")

    with pytest.raises(CommandError, match=f"^{pk} {why}.$"):
        jobs("retry", pk, failed)

    assert (state(pk), state(failed)) == (now, "waiting")


# --- cancel --------------------------------------------------------------------------------------------------------


def test_a_waiting_job_is_cancelled_and_says_by_what():
    pk = job()

    assert jobs("cancel", pk) == "1 job cancelled.\n"

    assert (state(pk), Job.objects.get().error) == ("cancelled", "Cancelled by manage.py jobs.")
    assert TaskResult.objects.get(task_id=pk).status == "REVOKED"


def test_without_ids_the_waiting_ones_are_cancelled_and_failed_ones_only_when_that_is_said():
    waiting, failed, running = job(), job("failed"), job("running")

    jobs("cancel", "--all")
    assert [state(pk) for pk in (waiting, failed, running)] == ["cancelled", "failed", "running"]

    jobs("cancel", "--state", "failed")
    assert [state(pk) for pk in (waiting, failed, running)] == ["cancelled", "cancelled", "running"]


def test_a_running_job_is_left_alone_and_the_way_to_stop_it_is_named():
    pk = job("running")
    with pytest.raises(CommandError, match=f"^{pk} is running; --terminate stops it.$"):
        jobs("cancel", pk)
    assert state(pk) == "running"


def test_terminate_cancels_a_running_job_and_says_when_its_worker_did_not_answer(monkeypatch):
    monkeypatch.setattr("celeriac.jobs.operate.PATIENCE", 0.1)
    pk = job("running", worker="celery@gone")
    assert as_json("cancel", pk, "--terminate") == {"cancelled": 1, "refused": {}, "may_still_run": [pk]}
    assert state(pk) == "cancelled"


@pytest.mark.parametrize(
    ("now", "why"),
    [
        ("succeeded", "has succeeded"),
        ("cancelled", "is cancelled already"),
        ("returned", "has had its effect and is about to end"),
    ],
)
def test_cancelling_one_that_has_ended_says_so(now, why):
    pk = job(now)
    with pytest.raises(CommandError, match=f"^{pk} {why}.$"):
        jobs("cancel", pk)
    assert state(pk) == now


# --- stats ---------------------------------------------------------------------------------------------------------


def test_stats_count_by_state_and_task_and_say_how_long_jobs_wait():
    now = timezone.now()
    job(due_at=now - timedelta(seconds=100), published_at=now)
    job(due_at=now - timedelta(seconds=40))
    job(due_at=now + timedelta(hours=1))
    job("running", lease_until=now - timedelta(seconds=1))
    job("running", lease_until=now + timedelta(minutes=1))
    job("succeeded", task=tasks.durable_total, args=([1],))
    for hours in (0, 2, 30):
        pk = job("failed")
        Job.objects.filter(pk=pk).update(finished_at=now - timedelta(hours=hours))

    stats = as_json("stats")

    assert 100 <= stats.pop("oldest_waiting_seconds") < 130
    assert 40 <= stats.pop("oldest_unpublished_seconds") < 70
    none = dict.fromkeys(STATES, 0)
    assert stats == {
        "states": none | {"waiting": 3, "running": 2, "succeeded": 1, "failed": 3},
        "tasks": {
            "tests.tasks.durable_add": none | {"waiting": 3, "running": 2, "failed": 3},
            "tests.tasks.durable_total": none | {"succeeded": 1},
        },
        "waiting_for_their_time": 1,
        "running_without_sign_of_life": 1,
        "failed_last_hour": 1,
        "failed_last_day": 2,
    }


def test_stats_for_people_are_a_table():
    job(due_at=timezone.now() - timedelta(minutes=3))
    text = jobs("stats")
    assert text.splitlines()[0].split() == ["TASK", *map(str.upper, STATES)]
    assert text.splitlines()[1].split() == ["tests.tasks.durable_add", "1", "0", "0", "0", "0", "0"]
    assert "oldest waiting                3 min" in text


def test_stats_of_nothing():
    assert as_json("stats")["oldest_waiting_seconds"] is None
    assert "oldest waiting                none" in jobs("stats")


# --- What is wrong is one sentence -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["show", "nobody"], "There is no job nobody."),
        (["retry", "one", "two"], "There is no job one or two."),
        (
            ["list", "--state", "lost"],
            "“lost” is no state: write waiting, running, returned, succeeded, failed or cancel",
        ),
        (
            ["list", "--since", "soon"],
            "--since is an age like 30m, 2h or 7d, or a time like 2026-11-20T14:00, not “soon”.",
        ),
        (["list", "--since", "999999999d"], "--since is an age like 30m"),
        (["list", "--limit", "-1"], "--limit is a number from 1 on, not “-1”."),
        (["retry"], "Say which jobs: either by their ids, or by filters, or --all."),
        (["retry", "one", "--all"], "Say which jobs: either by their ids, or by filters, or --all."),
        (["retry", "--state", "running"], "--state is failed or cancelled here, not “running”."),
        (["cancel", "--state", "running"], "--state is waiting or failed here, not “running”."),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(words, says):
    with pytest.raises(CommandError) as error:
        jobs(*words)
    assert str(error.value).startswith(says)
    assert "\n" not in str(error.value)


def test_one_unknown_id_among_others_changes_nothing():
    failed = job("failed")
    with pytest.raises(CommandError, match="There is no job nobody"):
        jobs("retry", failed, "nobody")
    assert state(failed) == "failed"


@pytest.mark.parametrize(
    ("words", "variables"),
    [
        (["show", "nobody", "--json"], {}),
        (["list", "--limit", "many"], {}),
        (["stats"], {"POSTGRES_HOST": "127.0.0.1", "POSTGRES_PORT": "1"}),
    ],
)
def test_it_ends_with_1_one_line_and_no_output(words, variables):
    variables = {"POSTGRES_DB": connection.settings_dict["NAME"], **variables}
    done = run(sys.executable, "manage.py", "jobs", *words, **variables)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (1, "", 1), done.stderr
