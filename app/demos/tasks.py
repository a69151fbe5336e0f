"""What visitors leave behind goes after a week, so that an open site does not grow for ever."""

from datetime import timedelta

from celery import current_app, shared_task
from celery.schedules import crontab
from django.apps import apps
from django.utils import timezone

from celeriac.cleanup import delete_in_batches

KEEP_FOR = timedelta(days=7)
#: What has no clean-up of its own.
LEFT_BEHIND = ("articles.Article", "notifications.Campaign", "pages.Batch", "feedback.Feedback")


@shared_task(ignore_result=True)
def delete_old() -> None:
    """Delete what the demos' visitors wrote; feedback only when it was delivered."""
    for name in LEFT_BEHIND:
        old = apps.get_model(name)._base_manager.filter(created_at__lt=timezone.now() - KEEP_FOR)
        delete_in_batches(old.exclude(delivered_at=None) if name.startswith("feedback") else old)


current_app.add_periodic_task(crontab("45"), delete_old.s(), name="delete what visitors left")
