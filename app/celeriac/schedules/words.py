"""A schedule in words, whatever is in its columns; and its last run, with what became of it."""

from collections.abc import Iterable
from datetime import datetime, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from django.db.models import CharField, Model, QuerySet
from django.db.models.functions import Cast
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_celery_beat.models import CrontabSchedule, PeriodicTask

from celeriac.schedules.problems import KINDS


def describe(schedule: Model) -> str:
    """An interval, crontab, clocked time or solar event in words."""
    try:
        if isinstance(schedule, CrontabSchedule):
            columns = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
            cron = " ".join(str(getattr(schedule, column)) for column in columns)
            return f"{schedule.human_readable} ({cron})"
        return str(schedule)
    except Exception:  # django-celery-beat's own words fail for an unknown period, say
        return f"{schedule._meta.verbose_name} {schedule.pk}, which cannot be read"


def schedule_of(task: PeriodicTask) -> Model | None:
    for kind in KINDS:
        try:
            if schedule := getattr(task, kind):
                return schedule
        except Exception:  # a time zone that is none, written by SQL
            return None
    return None


def when(task: PeriodicTask) -> str:
    schedule = schedule_of(task)
    return describe(schedule) if schedule else "cannot be read" if _has_one(task) else "no schedule"


def _has_one(task: PeriodicTask) -> bool:
    return any(getattr(task, f"{kind}_id") for kind in KINDS)


def zone_of(task: PeriodicTask) -> tzinfo:
    """The zone a schedule is written in; only a crontab has one of its own."""
    zone = getattr(schedule_of(task), "timezone", None)
    return zone if isinstance(zone, tzinfo) else timezone.get_current_timezone()


def clock(moment: datetime, zone: tzinfo | None = None) -> SafeString:
    """A moment as the clocks of ``zone`` show it, or the viewer's."""
    zone = zone or timezone.get_current_timezone()
    html = '<time datetime="{}">{} <span class="zone">{}</span></time>'
    return format_html(html, moment.isoformat(), f"{moment.astimezone(zone):%Y-%m-%d %H:%M:%S}", str(zone))


# --- Crontabs, readable ones or not --------------------------------------------------------------------------


def readable_crontabs() -> QuerySet[CrontabSchedule]:
    """Those whose time zone exists; one that does not is refused when it is read, with all that are read with it."""
    zones = CrontabSchedule.objects.annotate(zone=Cast("timezone", CharField()))
    unknown = set(zones.order_by().values_list("zone", flat=True).distinct()) - available_timezones()
    return CrontabSchedule.objects.annotate(zone=Cast("timezone", CharField())).exclude(zone__in=unknown)


def load_crontabs(tasks: Iterable[PeriodicTask]) -> None:
    """Give each task its crontab, in one query; a time zone that is none is left as the text it is."""
    of = {task: task.crontab_id for task in tasks if task.crontab_id}
    rows: Any = CrontabSchedule.objects.annotate(zone=Cast("timezone", CharField())).defer("timezone")
    crontabs = rows.in_bulk(set(of.values()))
    for crontab in crontabs.values():
        known = crontab.zone in available_timezones()
        vars(crontab)["timezone"] = ZoneInfo(crontab.zone) if known else crontab.zone  # the field would refuse it
    for task, pk in of.items():
        task.crontab = crontabs[pk]
