"""The platform's own tasks."""

from datetime import timedelta
from importlib import import_module

from celery import current_app, shared_task
from django.conf import settings
from django.contrib.sessions.backends.db import SessionStore
from django.core.management import call_command
from django.db.models import Exists, OuterRef
from django.utils import timezone

from celeriac.cleanup import delete_in_batches, expired_before
from celeriac.models import Job, ScheduleRun, TrackedTask


@shared_task(name="celeriac.clear_sessions", ignore_result=True)
def clear_sessions() -> None:
    """Delete the sessions that have expired."""
    store = import_module(settings.SESSION_ENGINE).SessionStore
    if issubclass(store, SessionStore):  # `db` and `cached_db`, where clearsessions is one DELETE
        delete_in_batches(store.get_model_class().objects.filter(expire_date__lt=timezone.now()))
    else:
        call_command("clearsessions")


@shared_task(name="celeriac.clear_history", ignore_result=True)
def clear_history() -> None:
    """Delete jobs that have ended, and who started what, and which runs schedules had, when they are old."""
    clear_jobs()
    if not (before := expired_before(current_app.conf.result_expires)):
        return
    delete_in_batches(TrackedTask.objects.filter(started_at__lt=before))
    # A schedule's newest run stays, however old: a yearly one is not shown as never run.
    newer = ScheduleRun.objects.filter(periodic_task=OuterRef("periodic_task"), due_at__gt=OuterRef("due_at"))
    old = ScheduleRun.objects.filter(Exists(newer), due_at__lt=before)
    delete_in_batches(old.exclude(pk__in=ScheduleRun.objects.unsent().values("pk")))


def clear_jobs() -> None:
    """Those that failed stay, however old: somebody has still to run them again, or to cancel them."""
    before = timezone.now() - timedelta(days=settings.JOBS_KEEP_DAYS)
    ended = [Job.State.SUCCEEDED, Job.State.CANCELLED]
    delete_in_batches(Job.objects.filter(state__in=ended, finished_at__lt=before))
