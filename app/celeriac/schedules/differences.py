"""Where a schedule in the database differs from its entry in ``CELERY_BEAT_SCHEDULE``, which wrote it once."""

import json
from dataclasses import dataclass
from typing import Any

from celery import schedules
from django.conf import settings
from django.db.models import Model
from django_celery_beat.models import CrontabSchedule, IntervalSchedule, PeriodicTask
from django_celery_beat.schedulers import ModelEntry

from celeriac.schedules.forms import ScheduleForm
from celeriac.schedules.seed import _schedule
from celeriac.schedules.words import describe, when

LABELS = ScheduleForm.Meta.labels
JSON = ("args", "kwargs", "headers")


@dataclass
class Difference:
    what: str
    settings: str
    here: str


def differences(task: PeriodicTask) -> list[Difference]:
    """What was changed since, in the admin or in the settings; nothing for a schedule that has no entry."""
    entry = settings.CELERY_BEAT_SCHEDULE.get(task.name)
    if not entry:
        return []
    try:
        columns, schedule = _columns(entry), schedules.maybe_schedule(_schedule(entry["schedule"]))
    except Exception as error:  # only a new entry is checked before it is written
        return [Difference("entry", f"cannot be read: {error}", "")]
    found = [
        Difference(LABELS.get(column, column), _shown(said), _shown(here))
        for column, said in columns.items()
        if _value(column, said) != _value(column, here := getattr(task, column))
    ]
    if not _same(task, schedule):
        found.insert(0, Difference("Schedule", _words(schedule), when(task)))
    return found


def _columns(entry: dict[str, Any]) -> dict[str, Any]:
    """What :func:`celeriac.schedules.seed.seed` would write, but for the schedule."""
    rest = {name: value for name, value in entry.items() if name not in {"schedule", "options", "relative"}}
    options = dict(entry.get("options", {}))
    if "expires" in options:
        options["expire_seconds"] = options.pop("expires")
    written = {"args": json.dumps(entry.get("args") or []), "kwargs": json.dumps(entry.get("kwargs") or {})}
    return {"enabled": True, **rest, **written, **ModelEntry._unpack_options(**options)}


def _value(column: str, value: Any) -> Any:
    """Comparable: JSON by what it says, and an empty text is no text."""
    if column not in JSON:
        return value or None
    try:
        return json.loads(value or "null") or None
    except ValueError:
        return value


def _shown(value: Any) -> str:
    return "nothing" if value in (None, "", "{}", "[]") else str(value)


def _same(task: PeriodicTask, schedule: Any) -> bool:
    try:
        return bool(task.schedule == schedule)
    except Exception:  # a row that cannot be read
        return False


def _words(schedule: Any) -> str:
    row: Model
    if isinstance(schedule, schedules.crontab):
        columns = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        row = CrontabSchedule(timezone=schedule.tz, **{name: getattr(schedule, f"_orig_{name}") for name in columns})
    elif isinstance(schedule, schedules.schedule):
        row = IntervalSchedule(every=int(schedule.run_every.total_seconds()), period=IntervalSchedule.SECONDS)
    else:
        return str(schedule)
    return describe(row)
