"""The Django project. ``celery_app`` is exported so that ``@shared_task`` finds its app."""

import os

if os.environ.get("SERVICE") != "flower":  # which has no tasks, and no Django: see celeriac.start
    from config.celery import app as celery_app

    __all__ = ("celery_app",)
