"""The message of every morning."""

from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy

import pytest
from celery import current_app
from django.utils import timezone
from django_celery_beat.models import PeriodicTask

from celeriac.schedules.seed import seed
from demos.notifications.models import Recipient
from demos.notifications.tasks import daily_message


@pytest.fixture
def schedule(db, settings):
    """The row that its entry becomes."""
    current_app.loader.import_default_modules()
    settings.CELERY_BEAT_SCHEDULE = {"daily message": settings.CELERY_BEAT_SCHEDULE["daily message"]}
    PeriodicTask.objects.all().delete()
    assert seed() == ["daily message"]
    return PeriodicTask.objects.get()


def test_it_is_due_every_day_at_eight(schedule):
    now = datetime(2026, 3, 28, 12, tzinfo=UTC)
    due = []
    for _ in range(3):
        start, until, _ = schedule.schedule.remaining_delta(now, tz=UTC)
        now = start + until
        due.append(now.astimezone(schedule.schedule.tz).strftime("%d %H:%M"))

    assert due == ["29 08:00", "30 08:00", "31 08:00"]


def test_its_task_is_registered_and_it_is_not_sent_in_the_evening(schedule):
    current_app.loader.import_default_modules()

    assert schedule.task in current_app.tasks
    assert schedule.expire_seconds == timedelta(hours=4).total_seconds()


def test_it_tells_the_owner_what_was_sent_since_yesterday(campaign, mail_server, settings):
    settings.DEFAULT_FROM_EMAIL = "site@example.net"
    old, new, *_ = campaign.recipients.all()
    Recipient.objects.filter(pk=old.pk).update(sent_at=timezone.now() - timedelta(days=2))
    Recipient.objects.filter(pk=new.pk).update(sent_at=timezone.now())
    daily_message.apply()

    assert mail_server.reached() == ["site@example.net"]
    text = message_from_bytes(mail_server.mails[0].content, policy=policy.default).get_content()
    assert "Mails sent in the last 24 hours: 1" in text
    assert "Mails that wait: 3" in text


@pytest.mark.django_db
def test_a_busy_mail_server_is_tried_again(mail_server):
    mail_server.busy_for = 3
    assert daily_message.apply().successful()

    assert len(mail_server.mails) == 1


@pytest.mark.usefixtures("_no_posts_yet")
def test_the_page_says_when_it_comes(client, schedule):
    assert "<strong>daily message</strong>: At 08:00 AM UTC" in client.get("/notifications/").content.decode()
