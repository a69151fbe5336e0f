"""Celery's own integration tests against our transport: ``make upstream``. None of its code is in this repository."""
