"""What is wrong with a schedule is said at its column, with what to write; without a query, and without an error."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.schedules.problems import problems
from tests import tasks

# No mark for the database: a query fails these tests.

WORK = tasks.work.name  # work(path, name, seconds=0.0, until="")
RETRIES = tasks.retries.name  # the same, bound: retries(self, path, seconds)
NOW = datetime(2030, 6, 1, 12, tzinfo=UTC)


def schedule(**columns) -> PeriodicTask:
    """One that can run, but for these columns."""
    kinds = {"interval": IntervalSchedule(every=10, period="seconds")}
    if any(kind in columns for kind in ("crontab", "clocked", "solar")):
        kinds = {}
    return PeriodicTask(**{"name": "a", "task": "config.tasks.debug_task", **kinds, **columns})


def crontab(**columns) -> CrontabSchedule:
    return CrontabSchedule(**{"minute": "0", "hour": "0", **columns})


def solar(event="sunrise", latitude="59.3", longitude="18.1") -> SolarSchedule:
    return SolarSchedule(event=event, latitude=Decimal(latitude), longitude=Decimal(longitude))


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {"task": WORK, "args": '["notes", "a"]'},
        {"task": WORK, "args": '["notes"]', "kwargs": '{"name": "a", "seconds": 1}'},
        {"task": WORK, "kwargs": '{"path": "notes", "name": "ä"}'},
        {"task": RETRIES, "args": '["notes", 1]'},
        {"task": "celery.backend_cleanup"},
        {"args": "", "kwargs": "", "headers": None},
        {"headers": '{"tenant": "acme"}'},
        {"queue": "heavy_tasks", "priority": 255},
        {"queue": "heavy_tasks", "routing_key": "heavy_tasks"},
        {"exchange": "heavy_tasks", "routing_key": "heavy_tasks"},
        {"interval": IntervalSchedule(every=1_000_000, period="microseconds")},
        {"crontab": crontab(minute="*/5", hour="8-18", day_of_week="mon-fri")},
        {"crontab": crontab(day_of_month="29", month_of_year="2")},
        {"crontab": crontab(day_of_month="29", month_of_year="2", day_of_week="0")},  # 2032, 2060 …
        {"crontab": crontab(day_of_month="31", timezone="Asia/Kathmandu")},
        {"clocked": ClockedSchedule(clocked_time=NOW), "one_off": True},
        {"clocked": ClockedSchedule(clocked_time=datetime(2020, 1, 1, tzinfo=UTC)), "one_off": True},  # has run
        {"solar": solar()},
        {"start_time": NOW, "expires": NOW + timedelta(days=1)},
        {"expires": datetime(2020, 1, 1, tzinfo=UTC)},  # ended, not broken
        {"expire_seconds": 0},
    ],
)
def test_what_can_run_has_none(columns):
    assert problems(schedule(**columns)) == {}


JSON_LIST = 'Write a JSON list like ["report.csv", 3]'
JSON_OBJECT = "Write a JSON object like"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"task": ""}, {"task": "Choose a task."}),
        ({"task": "shop.gone"}, {"task": "No task of this app has the name “shop.gone”"}),
        ({"args": "[1"}, {"args": f"{JSON_LIST}; at line 1, column 3"}),
        ({"args": "['a']"}, {"args": "JSON has double quotes."}),
        ({"args": "{}"}, {"args": JSON_LIST}),
        ({"args": "null"}, {"args": JSON_LIST}),
        ({"args": " "}, {"args": JSON_LIST}),
        ({"args": "[" * 100_000}, {"args": JSON_LIST}),
        ({"kwargs": "[]"}, {"kwargs": JSON_OBJECT}),
        ({"kwargs": "null"}, {"kwargs": JSON_OBJECT}),
        ({"args": "x", "kwargs": "y"}, {"args": JSON_LIST, "kwargs": JSON_OBJECT}),
        ({"headers": "[]"}, {"headers": JSON_OBJECT}),
        ({"headers": "null"}, {"headers": JSON_OBJECT}),
        ({"args": "[1]"}, {"args": "Write what the task takes, debug_task(): too many positional arguments."}),
        (
            {"task": WORK},
            {
                "args": "work(path: str, name: str, seconds: float = 0.0, until: str = ''): "
                "missing a required argument: 'path'"
            },
        ),
        ({"task": WORK, "args": '["a", "b"]', "kwargs": '{"x": 1}'}, {"kwargs": "unexpected keyword argument 'x'"}),
        ({"task": WORK, "args": '["a", "b"]', "kwargs": '{"name": 1}'}, {"kwargs": "multiple values for"}),
        (
            {"task": RETRIES, "args": "[1]"},
            {"args": "retries(path: str, seconds: float): missing a required argument: 'seconds'"},
        ),
        ({"queue": "typo"}, {"queue": "There is no queue “typo”: choose one of default, heavy_tasks."}),
        ({"exchange": "typo"}, {"exchange": "Leave exchange and routing key empty, and choose the queue"}),
        ({"routing_key": "heavy_tasks"}, {"routing_key": "Leave exchange and routing key empty"}),  # is ignored
        ({"exchange": "default", "routing_key": "heavy_tasks"}, {"exchange": "no queue would get this"}),
        ({"interval": None}, {"interval": "Choose when it runs: an interval, a crontab"}),
        ({"interval": IntervalSchedule(every=0, period="days")}, {"interval": "Write a whole number, 1 or more."}),
        ({"interval": IntervalSchedule(every=10**9, period="days")}, {"interval": "Write a smaller number"}),
        ({"interval": IntervalSchedule(every=9, period="microseconds")}, {"interval": "1000000 or more"}),
        ({"interval": IntervalSchedule(every=1, period="fortnights")}, {"interval": "Choose one of days, hours"}),
        (
            {"interval": IntervalSchedule(every=1, period="days"), "crontab": crontab()},
            {"interval": "Keep one of these", "crontab": "empty the others: interval, crontab."},
        ),
        ({"crontab": crontab(minute="61")}, {"crontab": "Write minutes from 0 to 59"}),
        ({"crontab": crontab(day_of_week="7")}, {"crontab": "Write days from 0 (Sunday) to 6"}),
        ({"crontab": crontab(hour="")}, {"crontab": "Write hours from 0 to 23"}),
        ({"crontab": crontab(day_of_month="31", month_of_year="2")}, {"crontab": "there is no day 31 in month 2."}),
        (
            {"crontab": crontab(day_of_month="31", month_of_year="4,6,9,11")},
            {"crontab": "there is no day 31 in month 4,6,9,11."},
        ),
        ({"solar": solar(event="moonrise")}, {"solar": "Choose one of dawn_astronomical"}),
        ({"solar": solar(latitude="91")}, {"solar": "Write degrees from -90 (south) to 90 (north)."}),
        ({"clocked": ClockedSchedule(clocked_time=NOW)}, {"one_off": "Tick this"}),
        ({"start_time": NOW, "expires": NOW}, {"expires": "Choose a time after the start."}),
        ({"expires": NOW, "expire_seconds": 5}, {"expire_seconds": "only one of them counts"}),
    ],
)
def test_what_cannot_run_says_so_at_its_column(columns, expected):
    found = problems(schedule(**columns))
    assert found.keys() == expected.keys()
    for column, words in expected.items():
        assert words in found[column]


def test_a_task_of_another_app_is_believed_to_exist_and_everything_else_is_checked():
    assert problems(schedule(task="shop.tasks.invoice", args="[1, 2, 3]"), any_task=True) == {}
    assert problems(schedule(task="shop.tasks.invoice", args="{}"), any_task=True).keys() == {"args"}
    assert problems(schedule(task=""), any_task=True).keys() == {"task"}


def test_a_task_that_says_it_takes_anything_is_given_anything(monkeypatch):
    monkeypatch.setattr(tasks.work, "typing", False)
    assert problems(schedule(task=WORK)) == {}


TEXT = st.text(max_size=20)


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("task", "args", "kwargs", "headers", "queue", "exchange", "routing_key"), TEXT),
            "interval": st.builds(IntervalSchedule, every=st.integers(), period=st.sampled_from(["days", "x"])),
            "crontab": st.builds(
                CrontabSchedule,
                **dict.fromkeys(("minute", "hour", "day_of_month"), st.text("0123456789*/-, jan", max_size=6)),
            ),
            "solar": st.builds(SolarSchedule, event=TEXT, latitude=st.decimals(), longitude=st.decimals()),
            "start_time": st.datetimes(timezones=st.just(UTC)),
            "expires": st.datetimes(timezones=st.just(UTC)),
            "expire_seconds": st.integers(),
        },
    )
)
def test_nothing_in_a_row_makes_it_fail(columns):
    """The scheduler asks about every row: one that could stop it would stop all the others."""
    assert all(isinstance(sentence, str) and sentence for sentence in problems(schedule(**columns)).values())
