"""Plain Celery, as "First steps with Django" sets it up: a broker, a store for results, and every default of Celery's.

Only what the stack needs to be the same stack is added: its two queues, and a schedule. Postgres, the web
server, and a Redis that appends to a file and evicts nothing are the stack's own, so that what is lost here is lost
by Celery's defaults and not by a Redis without a disk.
"""

from celery import Celery
from django.conf import settings

import config  # noqa: F401  its app would become the default one if it came later

app = Celery("plain")
app.conf.update(
    broker_url=settings.CELERY_BROKER_URL,
    broker_transport="kombu.transport.redis:Transport",  # in this process redis:// means ours
    result_backend="django-db",
    imports=["chaos.tasks"],
    task_default_queue="default",
    task_routes={"*.heavy_*": {"queue": "heavy_tasks"}},
    beat_schedule={"tick": {"task": "chaos.tasks.tick", "schedule": 2.0, "args": (0, 0.0)}},
)
app.set_default()  # for the threads of web, too
