"""Writes ``CELERY_BEAT_SCHEDULE`` to the database, each entry once in its life.

An app adds its own to it with Celery's ``current_app.add_periodic_task`` in its ``tasks.py``.
"""

import json
from datetime import timedelta
from typing import Any

from celery import current_app, schedules
from django.conf import settings
from django.core.exceptions import ValidationError
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
    current_app.loader.init_worker()  # what the apps add
    created = []
    for name, entry in settings.CELERY_BEAT_SCHEDULE.items():
        if SeededSchedule.objects.get_or_create(name=name)[1] and not _exists(name):
            PeriodicTask.objects.create(name=name, **_fields(name, entry))
            created.append(name)
    return created


def _exists(name: str) -> bool:
    return PeriodicTask.objects.filter(name=name).exists()


def _fields(name: str, entry: Any) -> dict[str, Any]:
    """The columns of a row; a wrong entry stops `prepare` with a sentence that names it."""
    try:
        options = dict(entry.get("options", {}))
        if "expires" in options:  # Celery's name for it
            options["expire_seconds"] = options.pop("expires")
        fields = ModelEntry._unpack_fields(**{**entry, "schedule": _schedule(entry["schedule"]), "options": options})
        if not isinstance(json.loads(fields["args"]), list) or not isinstance(json.loads(fields["kwargs"]), dict):
            raise ValueError("args has to be a list and kwargs a map")
        PeriodicTask(name=name, **fields).clean_fields()
    except KeyError as error:
        reason: object = f"it has no {error}"
    except ValidationError as error:
        reason = "; ".join(f"{field}: {' '.join(messages)}" for field, messages in error.message_dict.items())
    except (AttributeError, TypeError, ValueError, schedules.ParseException) as error:
        reason = error
    else:
        return fields
    raise ConfigError(f"the entry {name!r} of CELERY_BEAT_SCHEDULE is wrong: {reason}.")


def _schedule(value: Any) -> Any:
    """A schedule as Celery takes it; from the environment it is seconds, or a map of crontab fields."""
    if isinstance(value, dict):
        return schedules.crontab(**{field: str(part) for field, part in value.items()})
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, (int, float)) and (value < 1 or value != int(value)):
        raise ValueError(f"the schedule {value} is not a whole number of seconds")
    if value is None or isinstance(value, str):
        raise ValueError(f"the schedule {value!r} is neither seconds nor a map of crontab fields")
    return value
