"""The platform's own tasks."""

from celery import shared_task
from django.core.management import call_command


@shared_task(name="celeriac.clear_sessions", ignore_result=True)
def clear_sessions() -> None:
    """Delete the sessions that have expired."""
    call_command("clearsessions")
