"""A Django project with Celery, as `startproject` and Celery's "First steps with Django" leave it."""

from .celery import app as celery_app

__all__ = ("celery_app",)
