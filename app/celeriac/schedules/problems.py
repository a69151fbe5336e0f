"""Why a schedule cannot run: a sentence for each column that says what to write, for the form and the scheduler."""

import inspect
import json
from collections.abc import Callable, Iterator
from datetime import tzinfo
from typing import Any

from celery import Task, current_app
from celery.exceptions import QueueNotFound
from celery.schedules import ParseException, crontab_parser
from django.core.exceptions import ValidationError
from django.db.models import Model
from django.utils import timezone
from django_celery_beat import validators
from django_celery_beat.models import (
    PERIOD_CHOICES,
    SOLAR_SCHEDULES,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)

from celeriac.schedules import plan

#: The four kinds of schedule, as the columns of a periodic task.
KINDS = ("interval", "crontab", "clocked", "solar")
#: The columns that a message is made of; with a problem in one of them a run by hand is impossible, too.
MESSAGE = ("task", "args", "kwargs", "headers", "queue", "exchange", "routing_key")

Found = Iterator[tuple[str, str]]


def problems(task: PeriodicTask, any_task: bool = False) -> dict[str, str]:
    """Column -> what is wrong with it and what to write; empty when the schedule can run.

    ``any_task`` says that another app runs the task, so that its name cannot be checked. Raises nothing, whatever
    is in the columns, and makes no query when the task's schedule is loaded.
    """
    found: dict[str, str] = {}
    for column, check in CHECKS.items():
        try:
            for field, sentence in check(task):
                found.setdefault(field, sentence)
        except Exception as error:  # a row that is wrong in a way nobody thought of is its own problem
            found.setdefault(column, f"This cannot be read ({type(error).__name__}: {error}): write it anew.")
    if any_task and task.task and not registered(task.task):
        found.pop("task", None)
    return found


def in_words(found: dict[str, str]) -> str:
    """All of them in one line, each with its column."""
    return " ".join(f"{column}: {sentence}" for column, sentence in found.items())


# --- The task and what it is given ---------------------------------------------------------------------------


def task_names() -> list[str]:
    """The tasks of this app, and of Celery's own the one that is of use by itself."""
    current_app.loader.init_worker()  # imports the tasks, once
    own = "celery.backend_cleanup"
    return sorted(name for name in current_app.tasks if not name.startswith("celery.") or name == own)


def registered(name: str) -> Task | None:
    current_app.loader.init_worker()  # imports the tasks, once
    return current_app.tasks.get(name)


def _task(task: PeriodicTask) -> Found:
    if not task.task:
        yield "task", "Choose a task."
    elif not registered(task.task):
        yield (
            "task",
            f"No task of this app has the name “{task.task}”: choose another one, or, if another app runs it, "
            "write it under “Task of another app”.",
        )


def _arguments(task: PeriodicTask) -> Found:
    args, wrong_args = _json(task.args or "[]", list, 'a JSON list like ["report.csv", 3]')
    kwargs, wrong_kwargs = _json(task.kwargs or "{}", dict, 'a JSON object like {"name": "report.csv"}')
    if wrong_args:
        yield "args", wrong_args
    if wrong_kwargs:
        yield "kwargs", wrong_kwargs
    if not wrong_args and not wrong_kwargs:
        yield from _signature(task.task, args, kwargs)


def _headers(task: PeriodicTask) -> Found:
    _, wrong = _json(task.headers or "{}", dict, 'a JSON object like {"tenant": "acme"}')
    if wrong:
        yield "headers", wrong


def _json(text: str, kind: type, wanted: str) -> tuple[Any, str]:
    """What ``text`` says, and an empty sentence; or the sentence."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        hint = ", and JSON has double quotes" if "'" in text else ""
        return None, f"Write {wanted}; at line {error.lineno}, column {error.colno}: {error.msg}{hint}."
    except (ValueError, RecursionError):
        return None, f"Write {wanted}, with fewer digits and levels."
    return value, "" if isinstance(value, kind) else f"Write {wanted}."


def _signature(name: str, args: list[Any], kwargs: dict[str, Any]) -> Found:
    task = registered(name)
    # What Celery itself asks before it sends a task (celery/app/task.py, apply_async).
    check = getattr(task, "__header__", None) if task and task.typing else None
    if not task or not check:
        return
    try:
        check(*args, **kwargs)
    except TypeError as error:
        column = "args" if "positional" in str(error) else "kwargs"
        yield column, f"Write what the task takes, {_takes(task)}: {_mismatch(task, args, kwargs) or error}."


def _takes(task: Task) -> str:
    """``add(x, y)``."""
    signature = inspect.signature(task.run).replace(return_annotation=inspect.Signature.empty)
    return f"{task.name.rpartition('.')[2]}{signature}"


def _mismatch(task: Task, args: list[Any], kwargs: dict[str, Any]) -> str:
    try:
        inspect.signature(task.run).bind(*args, **kwargs)
    except TypeError as error:  # of a bound task it does not count `self`, as the other one does
        return str(error)
    return ""


# --- Where it is sent -------------------------------------------------------------------------------------------


def queue_names() -> list[str]:
    return list(current_app.amqp.queues)


def routed(name: str) -> str:
    """The queue that a task goes to when its schedule names none; empty when no queue is known."""
    try:
        return current_app.amqp.router.route({}, name)["queue"].name
    except Exception:  # a router is anybody's code
        return ""


def _queue(task: PeriodicTask) -> Found:
    queues = current_app.amqp.queues
    choose = f"choose one of {', '.join(queues)}."
    if task.queue and task.queue not in queues:
        yield "queue", f"There is no queue “{task.queue}”: {choose}"
        return
    try:
        route = current_app.amqp.router.route({"queue": task.queue} if task.queue else {}, task.task)
    except QueueNotFound as error:
        yield "queue", f"{error}, where CELERY_TASK_ROUTES sends it: {choose}"
        return
    if not task.exchange and not task.routing_key:
        return
    target = route["queue"]
    bound = [(queue.exchange.name, queue.routing_key) for queue in queues.values()]
    if not (task.exchange and task.routing_key):  # Celery takes the queue's own for both
        bound = [(target.exchange.name, target.routing_key)]
    if (task.exchange or target.exchange.name, task.routing_key or target.routing_key) not in bound:
        field = "exchange" if task.exchange else "routing_key"
        yield field, "Leave exchange and routing key empty, and choose the queue: no queue would get this."


# --- When it runs -------------------------------------------------------------------------------------------------


def _schedule(task: PeriodicTask) -> Found:
    rows: dict[str, Model] = {}
    for kind in KINDS:
        try:
            row = getattr(task, kind)
        except Exception as error:  # a time zone that is none, written by SQL, is refused when it is read
            reason = " ".join(getattr(error, "messages", [str(error)]))
            yield kind, f"Choose another one; this one cannot be read: {reason}."
            return
        if row:
            rows[kind] = row
    if not rows:
        yield "interval", "Choose when it runs: an interval, a crontab, a clocked time or a solar event."
    elif len(rows) > 1:
        for kind in rows:
            yield kind, f"Keep one of these and empty the others: {', '.join(rows)}."
    else:
        ((kind, row),) = rows.items()
        if wrong := SCHEDULES[kind](row):
            yield kind, " ".join(wrong.values())
    if "clocked" in rows and not task.one_off:
        yield "one_off", "Tick this: a clocked time comes once."


def interval_problems(interval: IntervalSchedule) -> dict[str, str]:
    if interval.period not in dict(PERIOD_CHOICES):
        return {"period": f"Choose one of {', '.join(period for period, _ in PERIOD_CHOICES)}."}
    if interval.every < 1:
        return {"every": "Write a whole number, 1 or more."}
    if interval.period == IntervalSchedule.MICROSECONDS and interval.every < 1_000_000:
        return {"every": "Write 1000000 or more, which is a second."}
    if not _comes(interval=interval):
        return {"every": "Write a smaller number: no calendar goes that far."}
    return {}


#: Column -> what it counts, the parser and django-celery-beat's own check, which is the stricter one.
CRONTAB: dict[str, tuple[str, crontab_parser, Callable[[str], None]]] = {
    "minute": ("minutes from 0 to 59, like 0, 0,30 or */15", crontab_parser(60), validators.minute_validator),
    "hour": ("hours from 0 to 23, like 8, 9-17 or */2", crontab_parser(24), validators.hour_validator),
    "day_of_month": (
        "days from 1 to 31, like 1, 1,15 or */2",
        crontab_parser(31, 1),
        validators.day_of_month_validator,
    ),
    "month_of_year": (
        "months from 1 to 12, like 1, 3,9 or */3",
        crontab_parser(12, 1),
        validators.month_of_year_validator,
    ),
    "day_of_week": (
        "days from 0 (Sunday) to 6 (Saturday), like 1, mon-fri or 0,6",
        crontab_parser(7),
        validators.day_of_week_validator,
    ),
}


def crontab_problems(crontab: CrontabSchedule) -> dict[str, str]:
    """What Celery cannot read, and what never comes."""
    try:
        comes = _comes(crontab=crontab)
    except Exception:  # Celery's parser raises many
        wrong = {field: sentence for field in CRONTAB if (sentence := crontab_field_problem(crontab, field))}
        if not wrong and not isinstance(crontab.timezone, tzinfo):
            wrong = {"timezone": f"Choose another time zone: there is no “{crontab.timezone}”."}
        if wrong:
            return wrong
        comes = False
    never = f"there is no day {crontab.day_of_month} in month {crontab.month_of_year}"
    return {} if comes else {"day_of_month": f"Choose other days or months: {never}."}


def crontab_field_problem(crontab: CrontabSchedule, field: str) -> str:
    counts, parser, strict = CRONTAB[field]
    text = str(getattr(crontab, field))
    try:
        parser.parse(text)
        strict(text)
    except (ValueError, IndexError, ParseException, ValidationError):
        return f"Write {counts}, or * for all; “{text}” is none."
    return ""


def solar_problems(solar: SolarSchedule) -> dict[str, str]:
    if solar.event not in dict(SOLAR_SCHEDULES):
        return {"event": f"Choose one of {', '.join(event for event, _ in SOLAR_SCHEDULES)}."}
    wrong = {}
    if not -90 <= solar.latitude <= 90:
        wrong["latitude"] = "Write degrees from -90 (south) to 90 (north)."
    if not -180 <= solar.longitude <= 180:
        wrong["longitude"] = "Write degrees from -180 (west) to 180 (east)."
    if not wrong and not _comes(solar=solar):
        wrong["event"] = "Choose another event or place: the sun does not do this there."
    return wrong


def _comes(**schedule: Any) -> bool:
    """Whether the schedule, by itself, has a next run."""
    try:
        return bool(plan.next_run(PeriodicTask(**schedule), timezone.now()))
    except OverflowError:
        return False


SCHEDULES: dict[str, Callable[[Any], dict[str, str]]] = {
    "interval": interval_problems,
    "crontab": crontab_problems,
    "solar": solar_problems,
    "clocked": lambda clocked: {},
}


def _dates(task: PeriodicTask) -> Found:
    if task.start_time and task.expires and task.start_time >= task.expires:
        yield "expires", "Choose a time after the start."
    if task.expires and task.expire_seconds is not None:
        yield "expire_seconds", "Leave this empty, or empty “Ends”: only one of them counts."


CHECKS: dict[str, Callable[[PeriodicTask], Found]] = {
    "task": _task,
    "args": _arguments,
    "headers": _headers,
    "queue": _queue,
    "interval": _schedule,
    "expires": _dates,
}
