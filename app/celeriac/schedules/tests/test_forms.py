"""The form of a schedule: what is wrong is said at its field, and what is right is saved with its plan."""

from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)

from celeriac.models import Schedule
from celeriac.schedules.forms import ClockedForm, CrontabForm, IntervalForm, ScheduleForm, SolarForm
from tests.tasks import work

pytestmark = pytest.mark.django_db

PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)


@pytest.fixture
def hourly():
    return IntervalSchedule.objects.create(every=1, period="hours")


def at(field, moment):
    """As the two inputs for a date and a time would be sent."""
    local = timezone.localtime(moment)
    return {f"{field}_0": f"{local:%Y-%m-%d}", f"{field}_1": f"{local:%H:%M:%S}"}


def form(hourly=None, instance=None, **fields):
    """The form, filled in with a schedule that can run, but for these fields."""
    interval = {"interval": hourly.pk} if hourly else {}
    data = {"name": "a", "task": "config.tasks.debug_task", "enabled": "on", "on_missed": "late", **interval, **fields}
    return ScheduleForm(data, instance=instance)


def test_what_can_run_is_saved_with_what_its_scheduler_has_to_know(hourly):
    form(hourly, on_missed="skip", queue="heavy_tasks", priority=3, expire_seconds=60).save()

    task = PeriodicTask.objects.get()
    assert (task.name, task.task, task.interval, task.args, task.kwargs) == (
        "a",
        "config.tasks.debug_task",
        hourly,
        "[]",
        "{}",
    )
    assert (task.queue, task.priority, task.expire_seconds) == ("heavy_tasks", 3, 60)
    assert (task.plan.on_missed, task.plan.any_task) == ("skip", False)


def test_what_is_left_empty_is_written_as_empty_json(hourly):
    task = form(hourly, args=" ", kwargs="", headers="").save()
    assert (task.args, task.kwargs, task.headers) == ("[]", "{}", "{}")  # stock's NULL headers break the table


def kinds():
    now = timezone.now()
    return {
        "interval": IntervalSchedule(every=5, period="minutes"),
        "crontab": CrontabSchedule(minute="30", hour="8", day_of_week="mon-fri", timezone="Europe/Vienna"),
        "clocked": ClockedSchedule(clocked_time=now + timedelta(days=1)),
        "solar": SolarSchedule(event="sunset", latitude="48.2", longitude="16.4"),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_schedule_is_served(kind):
    row = kinds()[kind]
    row.save()
    assert form(**{kind: row.pk}).save().scheduler == row


def test_a_clocked_schedule_is_a_one_off_without_being_told():
    row = kinds()["clocked"]
    row.save()
    assert form(clocked=row.pk).save().one_off


def test_a_start_and_an_end_are_kept(hourly):
    start, end = timezone.now() + timedelta(days=1), timezone.now() + timedelta(days=2)
    task = form(hourly, **at("start_time", start), **at("expires", end)).save()
    assert (task.start_time, task.expires) == (start.replace(microsecond=0), end.replace(microsecond=0))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"task": ""}, {"task": "Choose a task."}),
        ({"task": "shop.gone"}, {"task": "No task of this app has the name “shop.gone”"}),
        ({"other_task": "shop.tasks.invoice"}, {"other_task": "Empty this, or the list above"}),
        ({"name": ""}, {"name": "Write a name for it."}),
        ({"args": "['a']"}, {"args": "JSON has double quotes"}),
        ({"args": "null"}, {"args": "Write a JSON list"}),
        ({"kwargs": "[]"}, {"kwargs": "Write a JSON object"}),
        ({"headers": "[]"}, {"headers": "Write a JSON object"}),
        ({"task": work.name, "args": "[]"}, {"args": "missing a required argument: 'path'"}),
        ({"queue": "typo"}, {"queue": "There is no queue “typo”: choose one of default, heavy_tasks."}),
        ({"routing_key": "typo"}, {"routing_key": "Leave exchange and routing key empty"}),
        ({"priority": "10"}, {"priority": "Write a number from 0 to 9"}),
        ({"priority": "high"}, {"priority": "Write a whole number from 0 to 9."}),
        ({"interval": ""}, {"interval": "Choose when it runs"}),
        ({"interval": "4711"}, {"interval": "Choose another one: this has passed, or is gone."}),
        (at("expires", PAST), {"expires": "Choose a time that is still to come, or empty this."}),
        (at("expires", FUTURE) | at("start_time", FUTURE), {"expires": "Choose a time after the start."}),
        (at("expires", FUTURE) | {"expire_seconds": "5"}, {"expire_seconds": "only one of them counts"}),
    ],
)
def test_a_mistake_is_said_at_its_field_and_nothing_is_saved(hourly, fields, expected):
    wrong = form(hourly, **fields)
    assert wrong.errors.keys() == expected.keys()
    for field, words in expected.items():
        assert words in " ".join(wrong.errors[field])
    assert not PeriodicTask.objects.exists()


def test_two_schedules_are_one_too_many_and_both_fields_say_so(hourly):
    crontab = CrontabSchedule.objects.create()
    wrong = form(hourly, crontab=crontab.pk)
    assert wrong.errors.keys() == {"interval", "crontab"}
    assert wrong.errors["crontab"] == ["Keep one of these and empty the others: interval, crontab."]


def test_a_name_is_given_once(hourly):
    form(hourly).save()
    assert form(hourly).errors == {"name": ["Another schedule has this name: write another."]}


# --- Tasks of other apps, tasks that are gone --------------------------------------------------------------------


def test_a_task_of_another_app_is_an_explicit_choice(hourly):
    task = form(hourly, task="", other_task="shop.tasks.invoice", args="[1]").save()
    assert (task.task, task.plan.any_task) == ("shop.tasks.invoice", True)

    again = ScheduleForm(instance=PeriodicTask.objects.get())
    assert (again["task"].value(), again["other_task"].value()) == ("", "shop.tasks.invoice")


def test_a_task_of_this_app_is_checked_wherever_its_name_is_written(hourly):
    assert "missing a required argument" in str(form(hourly, task="", other_task=work.name).errors["args"])
    assert not form(hourly, task="", other_task="config.tasks.debug_task").save().plan.any_task


def test_what_a_row_says_is_shown_even_when_it_does_not_exist_any_more(hourly):
    gone = PeriodicTask.objects.create(name="old", task="shop.gone", queue="closed", interval=hourly)
    html = ScheduleForm(instance=gone).as_p()
    assert '<option value="shop.gone" selected>shop.gone (not in this app)</option>' in html
    assert '<option value="closed" selected>closed (does not exist)</option>' in html


def test_the_queue_it_is_routed_to_is_said(hourly):
    task = PeriodicTask(name="a", task="celeriac.clear_sessions")
    assert '<option value="" selected>as routed: default</option>' in ScheduleForm(instance=task).as_p()


# --- What has passed ---------------------------------------------------------------------------------------------


@pytest.fixture
def over():
    """A clocked schedule that has run, and is off since."""
    an_hour_ago = ClockedSchedule.objects.create(clocked_time=timezone.now() - timedelta(hours=1))
    return PeriodicTask.objects.create(
        name="a", task="config.tasks.debug_task", clocked=an_hour_ago, one_off=True, enabled=False
    )


def test_a_time_that_has_passed_cannot_be_chosen(over):
    assert "Choose another one" in str(form(clocked=over.clocked_id, name="b").errors["clocked"])


def test_a_schedule_that_has_run_can_still_be_described(over):
    assert form(instance=over, clocked=over.clocked_id, enabled="", description="Was fun.").is_valid()


def test_a_schedule_that_has_run_is_not_switched_on_for_nothing(over):
    again = form(instance=over, clocked=over.clocked_id)
    assert again.errors == {"clocked": ["Choose a time that is still to come."]}


# --- Rows that SQL has spoilt ------------------------------------------------------------------------------------


def test_a_time_zone_that_is_none_spoils_no_form(hourly):
    good, bad = CrontabSchedule.objects.create(), CrontabSchedule.objects.create()
    with connection.cursor() as cursor:
        sql = "UPDATE django_celery_beat_crontabschedule SET timezone = 'Mars/Olympus' WHERE id = %s"
        cursor.execute(sql, [bad.pk])

    assert form(crontab=good.pk).is_valid()
    assert f'value="{good.pk}"' in form(hourly).as_p()
    assert "Choose another one" in str(form(crontab=bad.pk).errors["crontab"])


def test_saving_has_the_scheduler_look_again(hourly):
    task = form(hourly).save()
    Schedule.objects.update(broken="its queue was away", content="a fingerprint", timing="another")
    form(hourly, instance=task).save()
    plan = Schedule.objects.get()
    assert (plan.content, plan.timing) == ("", "another")


# --- The four kinds ----------------------------------------------------------------------------------------------

HOURLY = {"minute": "0", "hour": "*", "day_of_month": "*", "month_of_year": "*", "day_of_week": "*", "timezone": "UTC"}
STOCKHOLM = {"event": "sunrise", "latitude": "59.3", "longitude": "18.1"}


@pytest.mark.parametrize(
    ("form", "data"),
    [
        (IntervalForm, {"every": "1", "period": "seconds"}),
        (CrontabForm, HOURLY),
        (CrontabForm, {**HOURLY, "day_of_month": "29", "month_of_year": "2"}),
        (CrontabForm, {**HOURLY, "minute": "*/15", "day_of_week": "mon-fri", "timezone": "America/New_York"}),
        (ClockedForm, at("clocked_time", FUTURE)),
        (SolarForm, STOCKHOLM),
    ],
)
def test_a_kind_that_has_a_next_run_is_saved(form, data):
    filled = form(data)
    assert filled.is_valid(), filled.errors
    assert filled.save().pk


@pytest.mark.parametrize(
    ("form", "data", "expected"),
    [
        (IntervalForm, {"every": "0", "period": "days"}, {"every": "Write a whole number, 1 or more."}),
        (IntervalForm, {"every": "two", "period": "days"}, {"every": "Write a whole number, 1 or more."}),
        (
            IntervalForm,
            {"every": "5", "period": "microseconds"},
            {"every": "Write 1000000 or more, which is a second."},
        ),
        (IntervalForm, {"every": "5"}, {"period": "Choose a unit."}),
        (
            CrontabForm,
            {**HOURLY, "minute": "61", "hour": "24", "timezone": "Mars/Olympus"},
            {"minute": "Write minutes from 0 to 59", "hour": "Write hours from 0 to 23", "timezone": "Select a valid"},
        ),
        (CrontabForm, {**HOURLY, "minute": ""}, {"minute": "Write minutes from 0 to 59, like 0, 0,30 or */15"}),
        (CrontabForm, {**HOURLY, "day_of_week": "7"}, {"day_of_week": "Write days from 0 (Sunday) to 6 (Saturday)"}),
        (CrontabForm, {**HOURLY, "hour": "1-5;rest"}, {"hour": "Write hours from 0 to 23"}),  # Celery reads 1-5
        (CrontabForm, {**HOURLY, "month_of_year": "0"}, {"month_of_year": "Write months from 1 to 12"}),
        (
            CrontabForm,
            {**HOURLY, "day_of_month": "30,31", "month_of_year": "2"},
            {"day_of_month": "there is no day 30,31 in month 2."},
        ),
        (ClockedForm, at("clocked_time", PAST), {"clocked_time": "still to come"}),
        (SolarForm, {**STOCKHOLM, "latitude": "91"}, {"latitude": "Write degrees from -90 (south) to 90 (north)."}),
        (SolarForm, {**STOCKHOLM, "longitude": "-181"}, {"longitude": "Write degrees from -180 (west) to 180 (east)."}),
    ],
)
def test_a_kind_that_never_comes_says_so_at_its_field(form, data, expected):
    wrong = form(data)
    assert wrong.errors.keys() == expected.keys()
    for field, words in expected.items():
        assert words in " ".join(wrong.errors[field])
        assert len(wrong.errors[field]) == 1
