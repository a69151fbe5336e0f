"""Celery's own Django example, called in every way Celery has."""
