"""Tasks of the benchmarks of one thing; those of bench/compare.py are in bench/peers."""

from celery import shared_task
from django.contrib.auth import get_user_model


@shared_task
def one_query() -> bool:
    """What most tasks do at least: ask the database one thing."""
    return get_user_model().objects.filter(pk=0).exists()


@shared_task(durable=True)
def durable_noop() -> None:
    """Nothing, and a result in Postgres that says so."""
