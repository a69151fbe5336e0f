"""When a schedule is due next: the one place that knows, for the scheduler, the form and the list.

Celery's own arithmetic works from "the last run, and now", which loses a run that was missed by hours and counts
in a fixed offset across a change of the clocks (``django_celery_beat/schedulers.py``, ``_get_timezone_offset``). Here a
schedule is a sequence of due times, which depend on nothing but the schedule.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import lru_cache

from celery import schedules
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask, SolarSchedule

#: How far ahead a crontab is searched: a 29 February on a given weekday comes every 28 years, or 40 around 2100.
YEARS = 40


def next_run(task: PeriodicTask, after: datetime, anchor: datetime | None = None) -> datetime | None:
    """The first due time later than ``after``, in UTC; ``None`` when no run is to come.

    ``anchor`` is a due time of an interval, from which the others are counted; its ``start_time`` or ``after``
    without it. Raises :class:`ValueError` for a schedule that is none.
    """
    due: datetime | None
    after = after.astimezone(UTC)
    if task.start_time and task.start_time > after:
        after = task.start_time.astimezone(UTC) - timedelta(microseconds=1)
        anchor = None
    if task.interval:
        due = next_interval(task.interval, after, anchor or task.start_time or after)
    elif task.crontab:
        due = next_crontab(task.crontab, after)
    elif task.solar:
        due = next_solar(task.solar, after)
    elif task.clocked:
        clocked = task.clocked.clocked_time.astimezone(UTC)
        due = clocked if clocked > after else None
    else:
        raise ValueError("it has no schedule")
    return due if due and not (task.expires and due >= task.expires) else None


def next_interval(interval: IntervalSchedule, after: datetime, anchor: datetime) -> datetime:
    """Counted from ``anchor``, so that late runs do not push the later ones back."""
    if interval.every < 1:
        raise ValueError(f"an interval of {interval.every} {interval.period}")
    every = timedelta(**{interval.period: interval.every})
    anchor = anchor.astimezone(UTC)
    return anchor + ((after - anchor) // every + 1) * every


def next_solar(solar: SolarSchedule, after: datetime) -> datetime:
    # nowfun: the remaining time counts from there.
    schedule = schedules.solar(solar.event, solar.latitude, solar.longitude, nowfun=lambda: after)
    # A second later, because the next sunrise after one may be the same, a rounding away.
    due = after + schedule.remaining_estimate(after + timedelta(seconds=1))
    return due.astimezone(UTC).replace(microsecond=0)


# --- Crontab ------------------------------------------------------------------------------------------------


class Fields:
    """The numbers a crontab's columns stand for, each sorted."""

    def __init__(self, minute: str, hour: str, day_of_week: str, day_of_month: str, month_of_year: str) -> None:
        parsed = schedules.crontab(minute, hour, day_of_week, day_of_month, month_of_year)
        self.times = [time(hour, minute) for hour in sorted(parsed.hour) for minute in sorted(parsed.minute)]
        self.days, self.weekdays, self.months = parsed.day_of_month, parsed.day_of_week, parsed.month_of_year
        #: Whether it runs in every hour, so by the hours that pass and not by those that a clock shows.
        self.every_hour = len(parsed.hour) == 24

    def dates(self, first: date) -> Iterator[date]:
        """The days from ``first`` on that match; all of day, weekday and month have to, as in Celery."""
        day, last = first, date(first.year + YEARS, 12, 31)
        while day <= last:
            if day.month not in self.months:
                day = date(day.year + day.month // 12, day.month % 12 + 1, 1)
                continue
            if day.day in self.days and day.isoweekday() % 7 in self.weekdays:
                yield day
            day += timedelta(days=1)


parse = lru_cache(maxsize=4096)(Fields)


def next_crontab(crontab: CrontabSchedule, after: datetime) -> datetime | None:
    """The next time at which the clock of the crontab's zone shows what its columns say.

    When the clock is put forward, what was due in the hour that is left out is due right after it. When it is
    put back, what was due in the hour that comes twice is due the first time, unless its hour is ``*``: every five
    minutes goes on every five minutes. So did Vixie's cron.
    """
    zone = crontab.timezone
    if not isinstance(zone, tzinfo):
        raise ValueError("a crontab without a time zone")
    fields = parse(crontab.minute, crontab.hour, crontab.day_of_week, crontab.day_of_month, crontab.month_of_year)
    # A day earlier: what was due in an hour that was left out may be due after midnight.
    for day in fields.dates(after.astimezone(zone).date() - timedelta(days=1)):
        if due := next(_dues(fields, day, zone, after), None):
            return due
    return None


def _dues(fields: Fields, day: date, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """The due times of ``day`` that are later than ``after``, the earliest first."""
    if _offset(day, zone) == _offset(day + timedelta(days=1), zone):  # no change of the clock: in order already
        shown = after.astimezone(zone)
        first = bisect_left(fields.times, shown.time()) if day == shown.date() else 0
        times = fields.times[first : first + 2] if day >= shown.date() else []
        return (due for at in times if (due := datetime.combine(day, at, zone).astimezone(UTC)) > after)
    dues = _changing_day(fields, day, zone)
    return iter(dues[bisect_right(dues, after) :])


@lru_cache(maxsize=1024)  # a thousand schedules that are due every minute of that day
def _changing_day(fields: Fields, day: date, zone: tzinfo) -> list[datetime]:
    walls = (datetime.combine(day, at, zone) for at in fields.times)
    return sorted({due for wall in walls for due in _instants(wall, fields.every_hour)})


def _offset(day: date, zone: tzinfo) -> timedelta | None:
    return datetime.combine(day, time(0), zone).utcoffset()


def _instants(wall: datetime, twice: bool) -> Iterator[datetime]:
    """When a clock shows ``wall``: mostly once; twice, or never and then the moment it jumps."""
    first, second = wall.astimezone(UTC), wall.replace(fold=1).astimezone(UTC)
    if second < first:  # left out: as of PEP 495, fold=0 reads it by the offset before the jump
        yield _jump(wall, first, second)
    else:
        yield first
        if twice and second != first:
            yield second


def _jump(wall: datetime, late: datetime, early: datetime) -> datetime:
    """The moment between ``early`` and ``late`` at which the zone's offset changes, to the second."""
    before = early.astimezone(wall.tzinfo).utcoffset()
    while late - early > timedelta(seconds=1):
        middle = early + (late - early) // 2
        if middle.astimezone(wall.tzinfo).utcoffset() == before:
            early = middle
        else:
            late = middle
    return late.replace(microsecond=0)
