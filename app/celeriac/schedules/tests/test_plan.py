"""When a schedule is due: every example of Celery's documentation, across changes of the clock, in two zones."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery.schedules import crontab
from django_celery_beat.models import ClockedSchedule, CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule
from hypothesis import given, settings
from hypothesis import strategies as st

from celeriac.schedules.plan import next_run

#: https://docs.celeryq.dev/en/stable/userguide/periodic-tasks.html#crontab-schedules, in its order.
EXAMPLES: dict[str, dict[str, Any]] = {
    "every minute": {},
    "daily at midnight": {"minute": 0, "hour": 0},
    "every three hours": {"minute": 0, "hour": "*/3"},
    "every three hours, listed": {"minute": 0, "hour": "0,3,6,9,12,15,18,21"},
    "every 15 minutes": {"minute": "*/15"},
    "every minute on Sundays": {"day_of_week": "sunday"},
    "every minute on Sundays, spelt out": {"minute": "*", "hour": "*", "day_of_week": "sun"},
    "every ten minutes in three hours of two days": {"minute": "*/10", "hour": "3,17,22", "day_of_week": "thu,fri"},
    "every even hour, and every hour divisible by three": {"minute": 0, "hour": "*/2,*/3"},
    "every hour divisible by 5": {"minute": 0, "hour": "*/5"},
    "every hour divisible by 3, and office hours": {"minute": 0, "hour": "*/3,8-17"},
    "the second day of every month": {"minute": 0, "hour": 0, "day_of_month": "2"},
    "every even day": {"minute": 0, "hour": 0, "day_of_month": "2-30/2"},
    "the first and third weeks of the month": {"minute": 0, "hour": 0, "day_of_month": "1-7,15-21"},
    "the eleventh of May every year": {"minute": 0, "hour": 0, "day_of_month": "11", "month_of_year": "5"},
    "daily in the first month of every quarter": {"minute": 0, "hour": 0, "month_of_year": "*/3"},
    "Monday mornings at 7:30": {"hour": 7, "minute": 30, "day_of_week": 1},
    # Not among the examples, and where the clock bites.
    "at half past two": {"minute": 30, "hour": 2},
    "every 20 minutes from one to three": {"minute": "*/20", "hour": "1-3"},
}
#: When the clock changes, by zone and direction.
CHANGES = {
    ("Europe/Berlin", "forward"): datetime(2026, 3, 29, 1, tzinfo=UTC),
    ("Europe/Berlin", "back"): datetime(2026, 10, 25, 1, tzinfo=UTC),
    ("America/New_York", "forward"): datetime(2026, 3, 8, 7, tzinfo=UTC),
    ("America/New_York", "back"): datetime(2026, 11, 1, 6, tzinfo=UTC),
}
TABLE = Path(__file__).parent / "crontab_runs.txt"


def row(fields: dict[str, Any], zone: str) -> PeriodicTask:
    parsed = crontab(**fields)
    columns = {
        name: str(getattr(parsed, f"_orig_{name}"))
        for name in ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
    }
    return PeriodicTask(crontab=CrontabSchedule(timezone=ZoneInfo(zone), **columns))


def runs(task: PeriodicTask, after: datetime, count: int) -> list[datetime]:
    found: list[datetime] = []
    while len(found) < count:
        due = next_run(task, found[-1] if found else after)
        assert due
        found.append(due)
    return found


def table() -> list[tuple[str, str, str, list[str]]]:
    """The lines of crontab_runs.txt: example, zone, direction, and ten local times with their offsets."""
    lines = [line for line in TABLE.read_text().splitlines() if line and not line.startswith("#")]
    found = []
    for line in lines:
        example, zone, direction, times = line.split(" | ")
        found.append((example, zone, direction, times.split(", ")))
    return found


@pytest.mark.parametrize(("example", "zone", "direction", "expected"), table(), ids=lambda value: str(value)[:40])
def test_the_next_ten_runs_across_a_change_of_the_clock(example, zone, direction, expected):
    every_minute = EXAMPLES[example].get("minute", "*") == "*"
    start = CHANGES[zone, direction] - timedelta(minutes=5 if every_minute else 61)
    found = runs(row(EXAMPLES[example], zone), start, 10)

    assert [due.astimezone(ZoneInfo(zone)).strftime("%a %d %b %Y %H:%M %z") for due in found] == expected


def test_the_table_has_every_example_in_both_zones_and_directions():
    assert {line[:3] for line in table()} == {(example, *change) for example in EXAMPLES for change in CHANGES}


def walk(fields: dict[str, Any], zone: ZoneInfo, after: datetime, until: datetime) -> list[datetime]:
    """The slow and plain way: look at the clock on the wall every minute."""
    parsed, dues, at = crontab(**fields), [], after
    shown = at.astimezone(zone).replace(tzinfo=None)
    while at < until:
        at += timedelta(minutes=1)
        now = at.astimezone(zone)
        passed = shown + timedelta(minutes=1)
        shown = now.replace(tzinfo=None)
        skipped = []
        while passed < shown:  # the clock jumped over these
            skipped.append(passed)
            passed += timedelta(minutes=1)
        second_time = now.fold == 1 and len(parsed.hour) < 24
        if any(matches(parsed, wall) for wall in skipped) or (matches(parsed, shown) and not second_time):
            dues.append(at)
    return dues


def matches(parsed: crontab, wall: datetime) -> bool:
    day = wall.day in parsed.day_of_month and wall.month in parsed.month_of_year
    return (
        day
        and wall.isoweekday() % 7 in parsed.day_of_week
        and wall.hour in parsed.hour
        and wall.minute in parsed.minute
    )


minutes = st.sampled_from(["*", "0", "30", "*/7", "59", "0,15,45"])
hours = st.sampled_from(["*", "0", "1", "2", "3", "*/2", "1-3", "23", "0,23", "1-23"])
weekdays = st.sampled_from(["*", "sun", "mon", "sat,sun"])
zones = st.sampled_from(
    ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Asia/Kolkata", "UTC"]
)
changes = st.sampled_from(
    [datetime(2026, 3, 28, 20), datetime(2026, 4, 4, 10), datetime(2026, 9, 5, 23), datetime(2026, 10, 3, 10)]
    + [datetime(2026, 10, 24, 20), datetime(2026, 3, 8, 1), datetime(2026, 11, 1, 1), datetime(2026, 7, 1)]
)


@settings(deadline=None)  # the slow way is slow
@given(minutes, hours, weekdays, zones, changes)
def test_it_agrees_with_a_look_at_the_clock_every_minute(minute, hour, weekday, zone, start):
    fields = {"minute": minute, "hour": hour, "day_of_week": weekday}
    after, until = start.replace(tzinfo=UTC), start.replace(tzinfo=UTC) + timedelta(hours=12)
    expected = walk(fields, ZoneInfo(zone), after, until)

    assert runs(row(fields, zone), after, len(expected)) == expected
    following = next_run(row(fields, zone), expected[-1] if expected else after)
    assert following
    assert following > until


def test_a_leap_day_on_a_monday_is_found_decades_ahead():
    task = row({"minute": 0, "hour": 0, "day_of_month": 29, "month_of_year": 2, "day_of_week": 1}, "UTC")

    assert next_run(task, datetime(2026, 1, 1, tzinfo=UTC)) == datetime(2044, 2, 29, tzinfo=UTC)


def test_a_date_that_never_comes_is_refused():
    task = PeriodicTask(crontab=CrontabSchedule(day_of_month="31", month_of_year="2", timezone=ZoneInfo("UTC")))

    with pytest.raises(ValueError, match="never occurs"):
        next_run(task, datetime(2026, 1, 1, tzinfo=UTC))


# --- Intervals, the sun, and bounds ---------------------------------------------------------------------------

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def interval(every: int, period: str = "seconds", **fields: object) -> PeriodicTask:
    return PeriodicTask(interval=IntervalSchedule(every=every, period=period), **fields)


def test_an_interval_keeps_its_beat_however_late_a_run_was():
    assert next_run(interval(10), NOON + timedelta(seconds=34), anchor=NOON) == NOON + timedelta(seconds=40)


def test_an_interval_with_a_start_runs_at_the_start():
    task = interval(1, "days", start_time=NOON)

    assert next_run(task, NOON - timedelta(days=9)) == NOON
    assert next_run(task, NOON) == NOON + timedelta(days=1)


@pytest.mark.parametrize("every", [0, -1])
def test_an_interval_of_nothing_is_refused(every):
    with pytest.raises(ValueError, match="an interval of"):
        next_run(interval(every), NOON)


def test_no_run_comes_after_the_expiry():
    task = interval(10, expires=NOON + timedelta(seconds=15))

    assert next_run(task, NOON) == NOON + timedelta(seconds=10)
    assert next_run(task, NOON + timedelta(seconds=10)) is None


def test_a_clocked_time_comes_once():
    task = PeriodicTask(clocked=ClockedSchedule(clocked_time=NOON), one_off=True)

    assert next_run(task, NOON - timedelta(seconds=1)) == NOON
    assert next_run(task, NOON) is None


def test_the_sun_rises_once_a_day_at_the_place_that_is_named():
    task = PeriodicTask(solar=SolarSchedule(event="sunrise", latitude=52.52, longitude=13.405))
    found = runs(task, datetime(2026, 6, 20, tzinfo=UTC), 10)

    assert [due.date() for due in found] == [date(2026, 6, day) for day in range(20, 30)]
    assert {due.astimezone(ZoneInfo("Europe/Berlin")).hour for due in found} == {4}  # 4:43, says the almanac


def test_where_the_sun_does_not_rise_for_weeks_the_next_rise_is_found():
    tromso = PeriodicTask(solar=SolarSchedule(event="sunrise", latitude=69.65, longitude=18.96))

    due = next_run(tromso, datetime(2026, 12, 1, tzinfo=UTC))
    assert due
    assert date(2027, 1, 10) < due.date() < date(2027, 1, 20)


def test_a_row_without_a_schedule_is_refused():
    with pytest.raises(ValueError, match="no schedule"):
        next_run(PeriodicTask(), NOON)
