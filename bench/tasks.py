"""Tasks that the benchmarks drain."""

from celery import shared_task
from django.contrib.auth import get_user_model


@shared_task
def one_query() -> bool:
    """What most tasks do at least: ask the database one thing."""
    return get_user_model().objects.filter(pk=0).exists()
