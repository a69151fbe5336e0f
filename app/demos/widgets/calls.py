"""Celery's ways of calling a task, each with the line of Python that it is."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

from celery import Signature, Task, chain, chord, group
from django.db import transaction
from django.http import HttpRequest

from celeriac.tracking import track
from config.tasks import debug_task
from demos.widgets import tasks

#: How many limited tasks are started together.
RUSH = 30

#: What the page keeps of a call, as JSON: the line of Python, the ids of its tasks, and how they are shown:
#: as a ``status``, by a table of the ``answer``, or without either, ``ignored``.
Started = dict[str, Any]
Arguments = list[Any]


def start(request: HttpRequest, way: str, task: Task, calls: list[Arguments], options: dict[str, Any]) -> Started:
    """Send what is asked for; raises what Celery raises while its broker is away."""
    return STARTERS[way](request, task, calls, options)


def started(code: str, *task_ids: str, shown: str = "status") -> Started:
    return {"code": code, "task_ids": list(task_ids), "shown": shown}


# --- One task ----------------------------------------------------------------------------------------------


def by_delay(request: HttpRequest, task: Task, calls: list[Arguments], options: dict[str, Any]) -> Started:
    # Nothing is written before it, so there is no commit to wait for.
    result = task.delay(*calls[0])
    track(request, written(task, calls[0]), result.id)
    return started(written(task, calls[0], ".delay"), result.id)


def by_apply_async(request: HttpRequest, task: Task, calls: list[Arguments], options: dict[str, Any]) -> Started:
    args = calls[0]
    with transaction.atomic():
        task_id = track(request, written(task, args))
        task.apply_async_on_commit(args, task_id=task_id, **options)
    shown = "ignored" if options.get("ignore_result") else "status"
    return started(f"{name(task)}.apply_async({', '.join([repr(args), *keywords(options)])})", task_id, shown=shown)


def by_ignore_result(request: HttpRequest, task: Task, calls: list[Arguments], options: dict[str, Any]) -> Started:
    return by_apply_async(request, task, calls, {**options, "ignore_result": True})


def debug(request: HttpRequest) -> Started:
    with transaction.atomic():
        task_id = track(request, "debug_task()")
        debug_task.apply_async_on_commit(task_id=task_id)
    return started("debug_task.delay()", task_id, shown="answer")


# --- Many ----------------------------------------------------------------------------------------------------


def by_group(request: HttpRequest, task: Task, calls: list[Arguments], options: dict[str, Any]) -> Started:
    with transaction.atomic():
        members = [watched(request, task, args) for args in calls]
        transaction.on_commit(group(members).apply_async)
    return started(f"group({signatures(task, calls)})()", *ids(members))


def by_chord(request: HttpRequest, task: Task, calls: list[Arguments], options: dict[str, Any]) -> Started:
    with transaction.atomic():
        members = [watched(request, task, args) for args in calls]
        last = watched(request, tasks.xsum, [], label=f"xsum of the {len(members)} results")
        transaction.on_commit(chord(members, last).apply_async)
    return started(f"chord([{signatures(task, calls)}])(xsum.s())", *ids([*members, last]))


def by_chain(request: HttpRequest, task: Task, calls: list[Arguments], options: dict[str, Any]) -> Started:
    with transaction.atomic():
        first = watched(request, task, calls[0])
        rest = [watched(request, task, args, f"{name(task)}(…, {args[0]})") for args in calls[1:]]
        transaction.on_commit(chain(first, *rest).apply_async)
    return started(f"chain({signatures(task, calls)})()", *ids([first, *rest]))


def rush(request: HttpRequest) -> Started:
    """Many of the limited task, and a table of when they started."""
    with transaction.atomic():
        last = watched(request, tasks.count_starts, [], label=f"{RUSH} limited tasks")
        transaction.on_commit(chord([tasks.limited.s() for _ in range(RUSH)], last).apply_async)
    return started(f"chord(limited.s() for _ in range({RUSH}))(count_starts.s())", *ids([last]), shown="answer")


STARTERS: dict[str, Callable[..., Started]] = {
    "delay": by_delay,
    "apply_async": by_apply_async,
    "ignore_result": by_ignore_result,
    "group": by_group,
    "chord": by_chord,
    "chain": by_chain,
}


def watched(request: HttpRequest, task: Task, args: Arguments, label: str = "") -> Signature:
    """A part of a group, chord or chain, with an id that is known, and owned, before it is sent."""
    return task.signature(args, task_id=track(request, label or written(task, args)))


def ids(members: list[Signature]) -> list[str]:
    return [member.options["task_id"] for member in members]


# --- In words of Python ------------------------------------------------------------------------------------


def name(task: Task) -> str:
    return task.name.rpartition(".")[2]


def written(task: Task, args: Arguments, method: str = "") -> str:
    return f"{name(task)}{method}({', '.join(map(repr, args))})"


def signatures(task: Task, calls: list[Arguments]) -> str:
    return ", ".join(written(task, args, ".s") for args in calls)


def keywords(options: dict[str, Any]) -> list[str]:
    return [
        f"{key}=datetime.fromisoformat({value.isoformat()!r})" if isinstance(value, datetime) else f"{key}={value!r}"
        for key, value in options.items()
    ]
