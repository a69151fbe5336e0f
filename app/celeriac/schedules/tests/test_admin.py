"""What operators see of schedules and can do with them; and what others cannot, not even by a forged POST."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from celery import current_app
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, PeriodicTasks
from django_celery_results.models import TaskResult

from celeriac.models import Schedule, ScheduleRun
from celeriac.schedules.tests.conftest import every
from demo.servers import free_port

BEAT = "/admin/django_celery_beat"
LIST = f"{BEAT}/periodictask/"
RUNS = "/admin/celeriac/schedulerun/"
ACTIONS = ("enable_tasks", "disable_tasks", "toggle_tasks", "run_tasks", "delete_selected")

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("plain_static_files")]


@pytest.fixture
def staff(client, sign_in):
    """The browser of a member of staff with these permissions."""

    def staff(*permissions):
        sign_in(*permissions, name="staff")
        return client

    return staff


@pytest.fixture
def operator(staff):
    return staff("view_periodictask", "change_periodictask", "view_schedulerun", "view_taskresult")


@pytest.fixture
def viewer(staff):
    return staff("view_periodictask", "view_schedulerun")


def act(client, action, *tasks, **fields):
    data = {"action": action, "_selected_action": [task.pk for task in tasks], **fields}
    return client.post(LIST, data, follow=True).content.decode()


def page(client, path=LIST):
    answer = client.get(path)
    assert answer.status_code == 200
    return answer.content.decode()


def change(task):
    return f"{LIST}{task.pk}/change/"


def run(task, hours_ago=0.0, **fields):
    at = timezone.now() - timedelta(hours=hours_ago)
    return ScheduleRun.objects.create(**{"periodic_task": task, "due_at": at, "sent_at": at, **fields})


def log():
    return list(LogEntry.objects.order_by("pk").values_list("object_repr", "change_message", "user__username"))


def on(*tasks):
    return list(PeriodicTask.objects.filter(pk__in=[task.pk for task in tasks]).values_list("enabled", flat=True))


def text(html):
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


# --- Who may do what ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ACTIONS)
def test_who_may_only_look_changes_nothing_by_a_forged_post(viewer, queue, action):
    task = every(enabled=False)
    act(viewer, action, task, post="yes")
    assert on(task) == [False]
    assert not ScheduleRun.objects.exists()
    assert not log()
    assert queue() == []


def test_who_may_only_look_runs_nothing_and_saves_nothing(viewer, queue):
    task = every()
    assert viewer.post(f"{LIST}{task.pk}/run/").status_code == 403
    assert viewer.post(change(task), {"name": "mine"}).status_code == 403
    assert viewer.post(f"{LIST}{task.pk}/delete/", {"post": "yes"}).status_code == 403
    assert viewer.post(f"{LIST}add/", {"name": "mine"}).status_code == 403
    assert list(PeriodicTask.objects.values_list("name", flat=True)) == ["due"]
    assert queue() == []


def test_who_may_only_look_is_offered_nothing(viewer):
    task = every()
    assert not any(f'value="{action}"' in page(viewer) for action in ACTIONS)
    shown = page(viewer, change(task))
    assert "Run now" not in shown
    assert "config.tasks.debug_task" in shown


def test_who_may_change_is_not_offered_to_delete(operator):
    task = every()
    act(operator, "delete_selected", task, post="yes")
    assert PeriodicTask.objects.exists()
    assert 'value="run_tasks"' in page(operator)


def test_who_may_not_look_is_shown_no_run(staff):
    task = every()
    made = run(task)
    client = staff("view_periodictask", "change_periodictask")
    assert client.get(RUNS).status_code == 403
    assert client.get(f"{RUNS}{made.pk}/change/").status_code == 403
    assert RUNS not in page(client, change(task))


def test_nobody_rewrites_what_has_run(admin_client):
    made = run(every(), kind="by hand")
    assert admin_client.post(f"{RUNS}{made.pk}/change/", {"error": "x"}).status_code == 403
    assert admin_client.post(f"{RUNS}{made.pk}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.get(f"{RUNS}add/").status_code == 403
    assert ScheduleRun.objects.get().error == ""


# --- Switching on and off ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "after", "logged"),
    [
        ("enable_tasks", [True, True], [("off", "Switched on.", "staff")]),
        ("disable_tasks", [False, False], [("on", "Switched off.", "staff")]),
        ("toggle_tasks", [False, True], [("off", "Switched on.", "staff"), ("on", "Switched off.", "staff")]),
    ],
)
def test_switching_is_recorded_for_those_that_changed_and_beat_hears_of_it(operator, action, after, logged):
    tasks = every(name="on"), every(name="off", enabled=False)
    PeriodicTasks.objects.update(last_update=datetime(2020, 1, 1, tzinfo=UTC))

    act(operator, action, *tasks)

    assert on(*tasks) == after
    assert log() == logged
    assert PeriodicTasks.last_change() > timezone.now() - timedelta(minutes=1)


def test_what_is_switched_off_forgets_its_last_run_as_when_it_is_saved(operator):
    task = every()
    act(operator, "disable_tasks", task)
    assert PeriodicTask.objects.get().last_run_at is None


def test_switching_a_thousand_takes_as_many_queries_as_switching_one(operator):
    every(name="first", enabled=False)
    one = queries(lambda: act(operator, "enable_tasks", *PeriodicTask.objects.all()))
    interval = IntervalSchedule.objects.get()
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"{n}", task="config.tasks.debug_task", interval=interval, enabled=False) for n in range(50)
    )
    assert queries(lambda: act(operator, "enable_tasks", *PeriodicTask.objects.all())) <= one + 2
    assert PeriodicTask.objects.filter(enabled=True).count() == 51


def queries(call):
    with CaptureQueriesContext(connection) as captured:
        call()
    return len(captured)


# --- Running by hand -----------------------------------------------------------------------------------------------


def test_run_now_sends_it_and_answers_with_a_link_to_the_run(operator, queue):
    task = every()
    answer = operator.post(f"{LIST}{task.pk}/run/", follow=True).content.decode()

    made = ScheduleRun.objects.get()
    (message,) = queue()
    assert message.headers["id"] == made.task_id
    assert (made.kind, str(made.user)) == ("by hand", "staff")
    assert f'href="{RUNS}{made.pk}/change/"' in answer
    assert log() == [("due", f"Run by hand: run {made.pk}, task {made.task_id}.", "staff")]


def test_run_now_is_a_post(operator, queue):
    assert operator.get(f"{LIST}{every().pk}/run/").status_code == 405
    assert operator.post(f"{LIST}4711/run/").status_code == 404
    assert queue() == []


def test_run_now_of_a_forged_form_is_refused(django_user_model, client):
    client.handler.enforce_csrf_checks = True
    client.force_login(django_user_model.objects.create_superuser("root"))
    assert client.post(f"{LIST}{every().pk}/run/").status_code == 403
    assert not ScheduleRun.objects.exists()


def test_several_are_run_at_once_and_those_that_cannot_be_are_named(operator, queue):
    good, gone = every(name="good"), every(name="gone", task="shop.gone")
    answer = text(act(operator, "run_tasks", good, gone))

    assert len(queue()) == 1
    assert list(ScheduleRun.objects.values_list("periodic_task__name", flat=True)) == ["good"]
    assert "“good” runs now: run" in answer
    assert "“gone” cannot be run. task: No task of this app has the name “shop.gone”" in answer
    assert [name for name, _, _ in log()] == ["good"]


def test_a_schedule_that_never_comes_can_still_be_run_by_hand(operator, queue):
    never = CrontabSchedule.objects.create(day_of_month="31", month_of_year="2")
    task = PeriodicTask.objects.create(name="never", task="config.tasks.debug_task", crontab=never)
    act(operator, "run_tasks", task)
    assert len(queue()) == 1


def test_more_than_a_hundred_are_not_run_at_once(operator, queue):
    every()
    interval = IntervalSchedule.objects.get()
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"{n}", task="config.tasks.debug_task", interval=interval) for n in range(100)
    )
    assert "Choose 100 at most" in act(operator, "run_tasks", *PeriodicTask.objects.all())
    assert queue() == []


def test_while_redis_is_away_one_run_is_kept_and_the_others_are_not_waited_for(operator, monkeypatch):
    monkeypatch.setenv("CELERY_BROKER_WRITE_URL", f"redis://127.0.0.1:{free_port()}/0")
    answer = text(act(operator, "run_tasks", every(name="a"), every(name="b"), every(name="c")))

    assert list(ScheduleRun.objects.unsent().values_list("periodic_task__name", flat=True)) == ["a"]
    assert "Redis cannot be reached. “a” is sent when it can be" in answer
    assert "Not run, try again: 2." in answer


def test_a_run_shows_its_result_and_leads_to_it(operator):
    made = run(every(), kind="by hand")
    result = TaskResult.objects.create(task_id=made.task_id, status="SUCCESS", result='{"queue": "default"}')

    for path in (RUNS, f"{RUNS}{made.pk}/change/"):
        assert f'href="/admin/django_celery_results/taskresult/{result.pk}/change/">done</a>' in page(operator, path)
    assert "{&quot;queue&quot;: &quot;default&quot;}" in page(operator, f"{RUNS}{made.pk}/change/")


def test_who_may_not_see_results_reads_the_word_and_gets_no_link(viewer):
    made = run(every())
    TaskResult.objects.create(task_id=made.task_id, status="FAILURE")
    assert "failed" in text(page(viewer, RUNS))
    assert "taskresult" not in page(viewer, RUNS)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "sent"),
        ({"sent_at": None}, "waits for Redis"),
        ({"sent_at": None, "kind": "skipped"}, "skipped"),
        ({"sent_at": None, "error": "TypeError: no"}, "not sent"),
    ],
)
def test_a_run_without_a_result_says_how_far_it_is(viewer, fields, word):
    made = run(every(), **fields)
    assert f">{word}</span>" in page(viewer, f"{RUNS}{made.pk}/change/")


# --- The list ------------------------------------------------------------------------------------------------------


def planned(task, **fields):
    return Schedule.objects.create(periodic_task=task, **fields)


def row(client, task, path=LIST):
    """The text of one schedule's row."""
    (found,) = [html for html in re.findall("(?s)<tr>.*?</tr>", page(client, path)) if f"/{task.pk}/change/" in html]
    return text(found)


def test_the_next_run_is_shown_by_the_schedules_clock_and_by_the_viewers(viewer):
    crontab = CrontabSchedule.objects.create(minute="0", hour="9", timezone="America/New_York")
    task = PeriodicTask.objects.create(name="nine", task="config.tasks.debug_task", crontab=crontab)
    planned(task, next_run_at=datetime(2030, 7, 1, 13, tzinfo=UTC))

    assert "2030-07-01 09:00:00 America/New_York 2030-07-01 13:00:00 UTC" in row(viewer, task)
    assert "At 09:00 AM America/New_York (0 9 * * *)" in row(viewer, task)


def test_one_clock_is_enough_where_both_show_the_same(viewer):
    task = every()
    planned(task, next_run_at=datetime(2030, 7, 1, 13, tzinfo=UTC))
    assert row(viewer, task).count("2030-07-01 13:00:00") == 1


def test_what_is_switched_off_or_not_planned_yet_says_so(viewer):
    off, new = every(name="off", enabled=False), every(name="new")
    planned(off, next_run_at=datetime(2030, 7, 1, 13, tzinfo=UTC))
    assert "switched off" in row(viewer, off)
    assert "not planned yet" in row(viewer, new)


def test_the_last_run_is_the_last_that_was_sent_with_its_result(operator):
    task = every()
    old, last = run(task, 3), run(task, 2)
    run(task, 1, sent_at=None, kind="skipped")
    TaskResult.objects.create(task_id=old.task_id, status="SUCCESS")
    result = TaskResult.objects.create(task_id=last.task_id, status="FAILURE")

    assert f"failed {last.sent_at:%Y-%m-%d %H:%M:%S}" in row(operator, task)
    assert f'href="/admin/django_celery_results/taskresult/{result.pk}/change/"' in page(operator)


@pytest.mark.parametrize(("kind", "words"), [("late", "missed, run late:"), ("skipped", "missed, skipped:")])
def test_a_missed_run_is_marked_until_the_next_one_is_made_on_time(viewer, kind, words):
    task = every()
    missed = run(task, 2, kind=kind)
    assert f"{words} {missed.due_at:%Y-%m-%d %H:%M:%S}" in row(viewer, task)
    run(task, 1)
    assert "missed" not in row(viewer, task)


def test_a_task_that_is_gone_is_marked_and_what_is_broken_says_why(viewer):
    gone, bad, seen = every(name="gone", task="shop.gone"), every(name="bad", args="{}"), every(name="seen")
    other = every(name="other", task="shop.tasks.invoice")
    planned(seen, broken="Redis said no", content="a fingerprint")
    planned(other, any_task=True)

    assert "task not registered" in row(viewer, gone)
    assert "broken: args: Write a JSON list" in row(viewer, bad)
    assert "broken: Redis said no" in row(viewer, seen)
    assert "broken" not in row(viewer, every(name="good"))
    assert "registered" not in row(viewer, other)
    assert "Write a JSON list" in page(viewer, change(bad))


def spoil(table, column, value, pk):
    with connection.cursor() as cursor:
        cursor.execute(f"UPDATE django_celery_beat_{table} SET {column} = %s WHERE id = %s", [value, pk])


@pytest.mark.parametrize("path", [LIST, f"{BEAT}/intervalschedule/", f"{BEAT}/crontabschedule/", f"{LIST}add/"])
def test_rows_that_sql_has_spoilt_are_shown_and_spoil_no_page(admin_client, path):
    zone, period = CrontabSchedule.objects.create(), IntervalSchedule.objects.create(every=3, period="days")
    task = "config.tasks.debug_task"
    by_zone = PeriodicTask.objects.create(name="zone", task=task, crontab=zone)
    by_period = PeriodicTask.objects.create(name="period", task=task, interval=period)
    spoil("crontabschedule", "timezone", "Mars/Olympus", zone.pk)
    spoil("intervalschedule", "period", "fortnights", period.pk)

    assert page(admin_client, path)
    assert "there is no “Mars/Olympus”" in row(admin_client, by_zone)
    assert "Choose one of days" in row(admin_client, by_period)
    assert "there is no “Mars/Olympus”" in page(admin_client, change(by_zone))
    assert "Choose one of days" in page(admin_client, change(by_period))


def test_the_filters_find_what_is_broken_and_what_was_missed(viewer):
    broken, missed, good = every(name="broken"), every(name="missed"), every(name="good", enabled=False)
    planned(broken, broken="no")
    planned(good)
    run(missed, kind="late")

    def found(query):
        names = re.findall(r'field-name"><a[^>]*>(\w+)</a>', page(viewer, f"{LIST}?{query}"))
        return set(names)

    assert found("broken=yes") == {"broken"}
    assert found("broken=no") == {"missed", "good"}
    assert found("missed=yes") == {"missed"}
    assert found("missed=no") == {"broken", "good"}
    assert found("enabled__exact=0") == {"good"}


def test_a_page_of_the_list_takes_as_many_queries_for_thirty_as_for_one(operator, settings):
    settings.CELERY_BEAT_SCHEDULE = {f"{n}": {"task": "a", "schedule": 60} for n in range(30)}

    def fill(n):
        crontab = CrontabSchedule.objects.create(timezone="Asia/Tokyo")
        schedule = {"interval": None, "crontab": crontab} if n % 2 else {}
        task = every(name=f"{n}", **schedule)
        planned(task, next_run_at=timezone.now())
        result = run(task, 2, kind="late").task_id
        run(task, 1, sent_at=None, kind="skipped")
        TaskResult.objects.create(task_id=result, status="SUCCESS")

    fill(0)
    fill(1)
    few = queries(lambda: page(operator))
    for n in range(2, 30):
        fill(n)
    assert queries(lambda: page(operator)) == few
    assert page(operator).count("differs from settings") == 30


# --- Settings ------------------------------------------------------------------------------------------------------


@pytest.fixture
def seeded(settings):
    """A schedule as its entry in the settings has written it."""
    from celeriac.schedules.seed import seed

    def make(**entry):
        settings.CELERY_BEAT_SCHEDULE = {"seeded": {"task": "config.tasks.debug_task", "schedule": 60, **entry}}
        seed()
        return PeriodicTask.objects.get(name="seeded")

    return make


OPTIONS = {"queue": "heavy_tasks", "expires": 30, "headers": {"a": 1}}


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"schedule": 3600.0},
        {"schedule": {"minute": 30, "day_of_week": "mon-fri"}},
        {"args": [1, "b"], "kwargs": {"c": None}, "options": OPTIONS, "description": "Why."},
        {"schedule": timedelta(minutes=2), "enabled": False},
    ],
)
def test_a_schedule_as_the_settings_wrote_it_does_not_differ(admin_client, seeded, entry):
    task = seeded(**entry)
    assert "differs" not in row(admin_client, task)
    assert "CELERY_BEAT_SCHEDULE" not in page(admin_client, change(task)).partition("<fieldset")[0]


def test_json_that_says_the_same_in_other_words_does_not_differ(admin_client, seeded):
    task = seeded(kwargs={"a": 1, "b": 2})
    PeriodicTask.objects.update(kwargs='{"b":2,\n "a":1}', headers="", args="")
    assert "differs" not in row(admin_client, task)


@pytest.mark.parametrize(
    ("edit", "shown"),
    [
        ({"interval__every": 90}, "Schedule every 60 seconds every 90 seconds"),
        ({"queue": "default"}, "Queue heavy_tasks default"),
        ({"args": "[2]"}, "Arguments [1] [2]"),
        ({"enabled": False}, "Enabled True False"),
        ({"task": "celeriac.clear_sessions"}, "Task config.tasks.debug_task celeriac.clear_sessions"),
    ],
)
def test_what_an_operator_has_edited_is_shown_beside_what_the_settings_say(admin_client, seeded, edit, shown):
    task = seeded(args=[1], options={"queue": "heavy_tasks"})
    for column, value in edit.items():
        if column == "interval__every":
            IntervalSchedule.objects.update(every=value)
        else:
            PeriodicTask.objects.update(**{column: value})

    assert "differs from settings" in row(admin_client, task)
    assert f"What Settings Here {shown}" in text(page(admin_client, change(task)))


def test_an_entry_that_cannot_be_read_any_more_spoils_no_page(admin_client, seeded, settings):
    task = seeded()
    settings.CELERY_BEAT_SCHEDULE = {"seeded": {"task": "a", "schedule": "soon"}}
    assert "differs from settings" in row(admin_client, task)
    assert "cannot be read" in text(page(admin_client, change(task)))


# --- Saving and deleting -------------------------------------------------------------------------------------------


def test_a_schedule_is_made_in_the_form_and_a_mistake_is_shown_at_its_field(admin_client):
    interval = IntervalSchedule.objects.create(every=2, period="days")
    fields = {"name": "new", "task": "config.tasks.debug_task", "interval": interval.pk, "on_missed": "skip"}

    wrong = admin_client.post(f"{LIST}add/", {**fields, "args": "{}"}).content.decode()
    (field,) = re.findall(r'<textarea[^>]*name="args"[^>]*>', wrong)
    assert 'aria-invalid="true"' in field
    assert 'id="id_args_error"' in wrong
    assert "id_args_error" in field

    assert admin_client.post(f"{LIST}add/", {**fields, "args": "[]"}).status_code == 302
    task = PeriodicTask.objects.get()
    assert (task.name, task.enabled, task.plan.on_missed) == ("new", False, "skip")
    assert json.loads(LogEntry.objects.get().change_message) == [{"added": {}}]


def test_every_kind_is_made_in_a_window_of_its_own_which_refuses_what_never_comes(admin_client):
    add = f"{BEAT}/crontabschedule/add/?_popup=1"
    crontab = dict.fromkeys(("minute", "hour", "day_of_week"), "*") | {"timezone": "UTC", "_popup": "1"}
    wrong = admin_client.post(add, {**crontab, "day_of_month": "31", "month_of_year": "2"}).content.decode()
    assert "there is no day 31 in month 2." in wrong
    assert not CrontabSchedule.objects.exists()
    admin_client.post(add, {**crontab, "day_of_month": "29", "month_of_year": "2"})
    assert CrontabSchedule.objects.get().month_of_year == "2"


def test_a_clocked_time_that_has_passed_is_refused(admin_client):
    moment = {"clocked_time_0": "2020-01-01", "clocked_time_1": "08:00:00"}
    assert "still to come" in admin_client.post(f"{BEAT}/clockedschedule/add/", moment).content.decode()
    assert not ClockedSchedule.objects.exists()


def test_a_schedule_is_deleted_with_its_runs_and_the_page_counts_them(admin_client):
    task = every()
    planned(task)
    for hours in range(3):
        run(task, hours)
    assert "Schedule runs: 3" in text(page(admin_client, f"{LIST}{task.pk}/delete/"))

    admin_client.post(f"{LIST}{task.pk}/delete/", {"post": "yes"})

    assert not PeriodicTask.objects.exists()
    assert not ScheduleRun.objects.exists()
    assert [name for name, _, _ in log()] == ["due"]


def test_several_are_deleted_by_the_action_which_is_recorded(admin_client):
    act(admin_client, "delete_selected", every(name="a"), every(name="b"), post="yes")
    assert not PeriodicTask.objects.exists()
    assert sorted(name for name, _, _ in log()) == ["a", "b"]


def test_an_interval_in_use_is_not_deleted_with_its_schedules(admin_client):
    task = every()
    path = f"{BEAT}/intervalschedule/"
    assert "schedule: due" in page(admin_client, f"{path}{task.interval_id}/delete/")
    admin_client.post(f"{path}{task.interval_id}/delete/", {"post": "yes"})
    action = {"action": "delete_selected", "_selected_action": [task.interval_id], "post": "yes"}
    admin_client.post(path, action)
    assert PeriodicTask.objects.get().interval

    unused = IntervalSchedule.objects.create(every=7, period="days")
    admin_client.post(f"{path}{unused.pk}/delete/", {"post": "yes"})
    assert IntervalSchedule.objects.count() == 1


def test_the_task_of_a_schedule_may_be_one_that_celery_brings(admin_client):
    assert "celery.backend_cleanup" in current_app.tasks
    assert '<option value="celery.backend_cleanup">' in page(admin_client, f"{LIST}add/")
    assert '<option value="celery.chord">' not in page(admin_client, f"{LIST}add/")
