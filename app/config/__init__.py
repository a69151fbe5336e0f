"""The Django project. ``celery_app`` is exported so that ``@shared_task`` finds its app."""

from config.celery import app as celery_app

__all__ = ("celery_app",)
