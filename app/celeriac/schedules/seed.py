"""Writes ``CELERY_BEAT_SCHEDULE`` to the database, each entry once in its life."""

import json
from typing import Any

from celery import schedules
from django.conf import settings
from django.db import transaction
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import ModelEntry

from celeriac.models import SeededSchedule
from config.env import ConfigError


@transaction.atomic
def seed() -> list[str]:
    """Create the entries that were never created; returns their names.

    An entry that an operator has edited or deleted since stays edited or deleted.
    """
    created = []
    for name, entry in settings.CELERY_BEAT_SCHEDULE.items():
        if SeededSchedule.objects.get_or_create(name=name)[1] and not _exists(name):
            model, field = ModelEntry.to_model_schedule(_schedule(name, entry["schedule"]))
            options = entry.get("options", {})
            PeriodicTask.objects.create(
                name=name,
                task=entry["task"],
                args=json.dumps(list(entry.get("args", ()))),
                kwargs=json.dumps(entry.get("kwargs", {})),
                queue=options.get("queue"),
                expire_seconds=options.get("expires"),
                **{field: model},
            )
            created.append(name)
    return created


def _exists(name: str) -> bool:
    return PeriodicTask.objects.filter(name=name).exists()


def _schedule(name: str, value: Any) -> Any:
    """A schedule as Celery takes it; from the environment it is seconds, or a map of crontab fields."""
    if isinstance(value, dict):
        try:
            return schedules.crontab(**value)
        except (TypeError, ValueError, schedules.ParseException) as error:
            raise ConfigError(f"the schedule of {name!r} in CELERY_BEAT_SCHEDULE is wrong: {error}.") from None
    return value
