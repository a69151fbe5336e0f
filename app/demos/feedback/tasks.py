"""The work behind the form: one mail for each feedback, tried until the mail server takes it."""

from collections.abc import Sequence
from smtplib import SMTPException
from typing import Any
from urllib.parse import urlsplit

from celery import Task, shared_task
from django.conf import settings
from django.core.mail import EmailMessage
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F
from django.utils import timezone

from celeriac.jobs import operate
from demos.feedback.models import Feedback

#: What passes by itself: a mail server, a network or a database that is away or busy for a while.
PASSING = (OSError, SMTPException, OperationalError, InterfaceError)


def give_up(self: Task, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
    """The row keeps why, and staff can send it again from the admin."""
    feedback_id = kwargs.get("feedback_id") or args[0]
    Feedback.objects.filter(pk=feedback_id, delivered_at=None).update(
        failed_at=timezone.now(), error=f"{type(exc).__name__}: {exc}"
    )


# A growing pause gives a mail server time to come back; its jitter keeps a thousand waiting mails from
# arriving all at once when it does.
@shared_task(
    bind=True,
    durable=True,  # not atomic: the mail is no part of a transaction
    on_failure=give_up,  # not a base class: the app's own Task class stays in place
    autoretry_for=PASSING,
    max_retries=8,
    retry_backoff=2,  # seconds, doubled by each attempt: eight retries reach over up to 8 minutes
    retry_backoff_max=600,
    retry_jitter=True,
)
def send_feedback(self: Task, feedback_id: str) -> None:
    """Mail the feedback with this id to the site's owner, once.

    Takes an id and no object: the message stays small, and the row is read as it is now.
    """
    feedback = Feedback.objects.filter(pk=feedback_id, delivered_at=None)
    # A crash in the middle is followed by another attempt. Delivered or deleted already: nothing is left to do.
    if not feedback.update(task_id=self.request.id, attempts=F("attempts") + 1):
        return
    with transaction.atomic():
        # Another job for it, or a worker that was taken for dead, waits here, and then finds the mail delivered.
        if waiting := feedback.select_for_update().first():
            mail(waiting).send()
            feedback.update(delivered_at=timezone.now(), failed_at=None, error="")


def send_again(feedback: Sequence[Feedback]) -> None:
    """Each by its job that failed; where there is none, by a new one."""
    with transaction.atomic():
        failed = {job.id for job in operate.retry([each.task_id for each in feedback])}
        send_feedback.delay_many([[str(each.pk)] for each in feedback if each.task_id not in failed])
        Feedback.objects.filter(pk__in=[each.pk for each in feedback]).update(failed_at=None, error="", task_id="")


def mail(feedback: Feedback) -> EmailMessage:
    """To the site's owner; never to the address in the form, or anyone could mail anyone through us."""
    return EmailMessage(
        subject="Feedback from the site",
        body=f"{feedback.message}\n\n-- \n{feedback.email}\n",
        to=[settings.FEEDBACK_TO or settings.DEFAULT_FROM_EMAIL],
        reply_to=[feedback.email],
        # The same at every attempt: should a worker die between the mail server's "250 OK" and our commit,
        # the second copy can be told from a second feedback.
        headers={"Message-ID": f"<feedback-{feedback.pk}@{urlsplit(settings.PUBLIC_URL).hostname}>"},
    )
