"""Mail for a whole campaign, the message of every morning, and two tasks that meet their time limits."""

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from smtplib import SMTPDataError, SMTPException, SMTPRecipientsRefused
from typing import Any
from urllib.parse import urlsplit

from celery import Task, current_app, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.schedules import crontab
from django.conf import settings
from django.core.mail import EmailMessage, get_connection
from django.core.mail.backends.base import BaseEmailBackend
from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone

from celeriac.tracking import Progress
from demos.notifications.models import Recipient

#: What passes by itself: a mail server, a network or a database that is away or busy for a while.
PASSING = (OSError, SMTPException, OperationalError, InterfaceError)
#: A growing pause gives the mail server time; its jitter keeps waiting batches from coming back all at once.
RETRIES: dict[str, Any] = {
    "autoretry_for": PASSING,
    "max_retries": 8,
    "retry_backoff": 2,  # seconds, doubled by each attempt
    "retry_backoff_max": 600,
    "retry_jitter": True,
}

# --- A campaign --------------------------------------------------------------------------------------------


@shared_task(bind=True, durable=True, **RETRIES)
def send_campaign(self: Task, campaign_id: str) -> str:
    """Mail everybody who waits in the campaign with this id.

    Not ``atomic``, as mails are no part of a transaction: each is recorded as soon as it is sent, so every attempt
    goes on where the last one stopped.
    """
    recipients = Recipient.objects.filter(campaign__id=campaign_id)
    waiting = list(recipients.filter(sent_at=None, refused="").values_list("pk", flat=True))
    total, put_off = recipients.count(), []
    progress = Progress(self, total)
    try:
        with get_connection() as connection:  # one for the whole batch
            for done, recipient_id in enumerate(waiting, total - len(waiting)):
                progress.report(done, f"{done} of {total} sent")
                if reason := send(recipient_id, connection):
                    put_off.append(reason)  # a full mailbox holds up nobody else
    except SoftTimeLimitExceeded as limit:
        # Minutes before the hard limit kills: nothing is lost, and the rest is for the next attempt.
        raise self.retry(exc=limit, countdown=1) from limit
    if put_off:
        raise SMTPException(f"{len(put_off)} not taken yet; the mail server says {put_off[0]}")
    return f"{recipients.exclude(sent_at=None).count()} of {total} sent."


def send(recipient_id: int, connection: BaseEmailBackend) -> str:
    """Send this one's mail and record it; returns why the mail server wants it later, if so."""
    with undisturbed(), transaction.atomic():
        # Another job, or a worker that was taken for dead, is sending the locked ones; no two mail the same person.
        recipient = (
            Recipient.objects.select_for_update(skip_locked=True, of=("self",))
            .select_related("campaign")
            .filter(pk=recipient_id, sent_at=None)
            .first()
        )
        if not recipient:
            return ""
        try:
            connection.send_messages([mail(recipient)])
            recipient.sent_at = timezone.now()
        except (SMTPRecipientsRefused, SMTPDataError) as error:
            code, reason = answer(error)
            if code < 500:
                return reason
            recipient.refused = reason  # for ever, says a code above 500: asking again would not help
        recipient.save(update_fields=["sent_at", "refused"])
    return ""


@contextmanager
def undisturbed() -> Iterator[None]:
    """The soft time limit, a signal that raises anywhere, waits until a mail that is sent is recorded, too."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows, where Celery has no soft time limit
        yield
        return
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})


def answer(error: SMTPRecipientsRefused | SMTPDataError) -> tuple[int, str]:
    """The mail server's code, and the code with its words."""
    refusals = error.recipients.values() if isinstance(error, SMTPRecipientsRefused) else [error.args[:2]]
    code, said = next(iter(refusals))
    return code, f"{code} {said.decode(errors='replace') if isinstance(said, bytes) else said}"


def mail(recipient: Recipient) -> EmailMessage:
    """To the site's own mailbox, naming its recipient: a form must not let anyone mail anyone through us."""
    campaign = recipient.campaign
    body = campaign.text if campaign.for_real else f"To {recipient.email}:\n\n{campaign.text}"
    return EmailMessage(
        subject=campaign.subject,
        body=body,
        to=[recipient.email if campaign.for_real else own_mailbox()],
        # The same at every attempt: should a worker be killed between the mail server's "250 OK" and our
        # commit, the second copy can be told from a second mail.
        headers={"Message-ID": message_id(f"campaign-{campaign.pk}-{recipient.pk}")},
    )


def own_mailbox() -> str:
    return settings.FEEDBACK_TO or settings.DEFAULT_FROM_EMAIL


def message_id(name: str) -> str:
    return f"<{name}@{urlsplit(settings.PUBLIC_URL).hostname}>"


# --- Every morning -----------------------------------------------------------------------------------------


@shared_task(bind=True, durable=True, **RETRIES)
def daily_message(self: Task) -> str:
    """Tell the site's owner what was sent since yesterday."""
    sent = Recipient.objects.filter(sent_at__gt=timezone.now() - timedelta(days=1)).count()
    waiting = Recipient.objects.filter(sent_at=None, refused="").count()
    body = f"Good morning.\n\nMails sent in the last 24 hours: {sent}\nMails that wait: {waiting}\n"
    message = EmailMessage("Good morning", body, to=[own_mailbox()])
    message.extra_headers["Message-ID"] = message_id(f"daily-{self.request.id}")  # the same at every attempt
    message.send()
    return body


# Written to the database once, then the admin's. A worker that comes back in the evening does not say good morning.
current_app.add_periodic_task(crontab("0", "8"), daily_message.s(), name="daily message", expires=4 * 3600)


# --- Time limits -------------------------------------------------------------------------------------------


@shared_task(bind=True)
def polite(self: Task, seconds: int) -> str:
    """Count the seconds; told by the soft time limit that time is up, save what is done and end well."""
    progress, second = Progress(self, seconds), 0
    try:
        for second in range(seconds):
            progress.report(second, f"{second} s")
            time.sleep(1)
    except SoftTimeLimitExceeded:
        return f"Told to stop after {second + 1} s; saved what was done, and stopped."
    return "Done."


@shared_task(bind=True)
def stubborn(self: Task, seconds: int) -> str:
    """Count the seconds, deaf to the soft time limit, by a mistake that is easily made. The hard one kills it."""
    progress = Progress(self, seconds)
    for second in range(seconds):
        try:
            progress.report(second, f"{second} s")
            time.sleep(1)
        except Exception:  # THE WRONG WAY: the time limit is an exception, too
            progress.report(second, f"{second} s: something went wrong, never mind", at_once=True)
    return "Done."
