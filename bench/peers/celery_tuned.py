"""The same, tuned by what Celery's documentation has to say; the worker's options are in bench/columns.py."""

from bench.peers.celery_tutorial import *  # noqa: F403

CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 64  # the best of 1 to 128 for tasks that take no time
CELERY_WORKER_ENABLE_REMOTE_CONTROL = CELERY_WORKER_SEND_TASK_EVENTS  # noqa: F405  Flower asks by it
CELERY_WORKER_DISABLE_RATE_LIMITS = True
