"""Settings that contradict each other: system checks that fail ``check --deploy`` and name the fix."""

import os
from typing import Any

from django.conf import settings
from django.core.checks import Error, register

from celeriac.jobs.execution import RENEW

TAG = "celeriac"
#: Postgres keeps these for its superuser (``superuser_reserved_connections``).
RESERVED_CONNECTIONS = 3


@register(TAG, deploy=True)
def visibility_timeout_outlasts_its_renewal(**kwargs: Any) -> list[Error]:
    """A message that is not renewed in time is delivered to a second worker."""
    visibility = settings.CELERY_BROKER_TRANSPORT_OPTIONS["visibility_timeout"]
    if not isinstance(visibility, (int, float)):
        return [
            Error(
                f"The visibility_timeout in CELERY_BROKER_TRANSPORT_OPTIONS is {visibility!r}, which is no number.",
                hint='Write it like {"visibility_timeout": 30}, in seconds.',
                id="celeriac.E005",
            )
        ]
    if visibility >= 3 * RENEW:
        return []
    return [
        Error(
            f"The broker's visibility_timeout is {visibility} seconds, and a worker renews it every {RENEW}: "
            "a worker that is slow for a moment would lose its messages to another one.",
            hint=f"Give it at least {3 * RENEW} seconds in CELERY_BROKER_TRANSPORT_OPTIONS, like "
            '{"visibility_timeout": 30}.',
            id="celeriac.E001",
        )
    ]


@register(TAG, deploy=True)
def every_task_has_an_end(**kwargs: Any) -> list[Error]:
    """A worker renews what it runs for as long as it runs it, so a task that hangs has to be killed."""
    if settings.CELERY_TASK_TIME_LIMIT and settings.CELERY_TASK_TIME_LIMIT > 0:
        return []
    return [
        Error(
            f"CELERY_TASK_TIME_LIMIT is {settings.CELERY_TASK_TIME_LIMIT or 'not set'}, so a task that hangs would "
            "hold its worker, and its message, for ever.",
            hint="Set CELERY_TASK_TIME_LIMIT in seconds, however many; 1800 is the default.",
            id="celeriac.E006",
        )
    ]


@register(TAG, deploy=True)
def soft_time_limit_comes_before_the_hard_one(**kwargs: Any) -> list[Error]:
    soft, hard = settings.CELERY_TASK_SOFT_TIME_LIMIT, settings.CELERY_TASK_TIME_LIMIT
    if not soft or not hard or soft < hard:
        return []
    return [
        Error(
            f"CELERY_TASK_SOFT_TIME_LIMIT ({soft}) is not below CELERY_TASK_TIME_LIMIT ({hard}), so a task "
            "is killed before it is told.",
            hint=f"Set CELERY_TASK_SOFT_TIME_LIMIT below {hard}.",
            id="celeriac.E002",
        )
    ]


@register(TAG, deploy=True)
def stop_grace_outlasts_the_drain(**kwargs: Any) -> list[Error]:
    """Docker kills what has not stopped after its grace; messages then wait for the visibility timeout."""
    drain, grace = settings.CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT, settings.STOP_GRACE_SECONDS
    if grace >= drain + 15:
        return []
    return [
        Error(
            f"STOP_GRACE_SECONDS ({grace}) leaves a stopping worker no time after its "
            f"CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT ({drain:g} s) to put unfinished work back.",
            hint=f"Set STOP_GRACE_SECONDS to at least {drain + 15:g}, or a shorter "
            "CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT.",
            id="celeriac.E003",
        )
    ]


def connections_needed() -> dict[str, int]:
    """The most Postgres connections each role opens, all its replicas together.

    A worker has one for each child, one for its main process, which stores what a dead child cannot, and one for its
    leases.
    """
    worker = settings.CELERY_WORKER_CONCURRENCY
    children = worker if isinstance(worker, int) and worker > 0 else os.cpu_count() or 1  # 0 and "auto"
    return {
        "web": settings.WEB_REPLICAS * settings.WEB_PROCESSES * settings.WEB_THREADS,
        "worker": settings.WORKER_REPLICAS * (children + 2),
        "worker-heavy": settings.WORKER_HEAVY_REPLICAS * (settings.WORKER_HEAVY_CONCURRENCY + 2),
        "beat": settings.BEAT_REPLICAS * 2,  # one of them for the lock
        "migrate": 2,
    }


@register(TAG, deploy=True)
def connections_fit_into_postgres(**kwargs: Any) -> list[Error]:
    needed, most = connections_needed(), settings.POSTGRES_MAX_CONNECTIONS - RESERVED_CONNECTIONS
    if sum(needed.values()) <= most:
        return []
    roles = ", ".join(f"{role} {count}" for role, count in needed.items())
    return [
        Error(
            f"The stack can open {sum(needed.values())} connections ({roles}), and Postgres allows {most} "
            f"(POSTGRES_MAX_CONNECTIONS={settings.POSTGRES_MAX_CONNECTIONS} less "
            f"{RESERVED_CONNECTIONS} for its superuser).",
            hint="Raise POSTGRES_MAX_CONNECTIONS, or lower the replicas, WEB_THREADS or CELERY_WORKER_CONCURRENCY.",
            id="celeriac.E004",
        )
    ]
