"""The mails of a campaign: everybody gets theirs once, whatever goes wrong with the others."""

import threading
from email import message_from_bytes, policy

import pytest
from django.db import connection

from demos.notifications.models import Campaign, Recipient
from demos.notifications.tasks import mail, send_campaign
from demos.notifications.tests.conftest import FIVE, run


def waiting(campaign):
    return list(campaign.waiting().values_list("email", flat=True))


def test_everybody_gets_one_mail_over_one_connection(campaign, mail_server):
    assert run(campaign).get() == "5 of 5 sent."

    assert mail_server.reached() == FIVE
    assert len(mail_server.connections) == 1
    assert waiting(campaign) == []


def test_unless_it_is_for_real_all_mails_go_to_the_site_and_name_their_recipient(campaign, mail_server, settings):
    settings.DEFAULT_FROM_EMAIL = "Celeriac <site@example.net>"
    Campaign.objects.update(for_real=False)
    run(campaign)

    assert mail_server.reached() == ["site@example.net"] * 5
    message = message_from_bytes(mail_server.mails[0].content, policy=policy.default)
    assert message["Subject"] == "Open"
    assert message.get_content().split() == ["To", "ada@example.org:", "Come", "and", "see."]


def test_a_retry_goes_on_where_the_last_attempt_stopped(campaign, mail_server):
    mail_server.hangs_up_after = 2
    assert run(campaign).get() == "5 of 5 sent."

    assert mail_server.reached() == FIVE
    assert len(mail_server.connections) == 2


def test_a_busy_mailbox_is_tried_again_and_holds_up_nobody(campaign, mail_server):
    mail_server.busy_for = 1
    assert run(campaign).get() == "5 of 5 sent."

    assert mail_server.reached() == [*FIVE[1:], FIVE[0]]


def test_an_address_that_is_refused_for_ever_is_noted_and_not_tried_again(campaign, mail_server):
    mail_server.refuses = {"joan@example.org": "550 No such user"}
    assert run(campaign).get() == "4 of 5 sent."
    run(campaign)

    assert mail_server.reached() == [email for email in FIVE if email != "joan@example.org"]
    assert Recipient.objects.get(email="joan@example.org").refused == "550 No such user"


def test_when_every_retry_is_used_up_it_fails_and_knows_who_waits(campaign, mail_server):
    mail_server.refuses = {"joan@example.org": "450 Mailbox full"}
    result = run(campaign)

    assert result.state == "FAILURE"
    assert str(result.result) == "1 not taken yet; the mail server says 450 Mailbox full"
    assert waiting(campaign) == ["joan@example.org"]

    mail_server.refuses = {}
    run(campaign)
    assert mail_server.reached() == [*FIVE[:2], *FIVE[3:], "joan@example.org"]


@pytest.mark.usefixtures("smtp")
def test_a_mail_server_that_stays_away_costs_nobody_their_mail(campaign):
    result = run(campaign)

    assert isinstance(result.result, ConnectionRefusedError)
    assert waiting(campaign) == FIVE


def test_an_attempt_after_a_crash_mails_nobody_twice(campaign, mail_server):
    run(campaign)
    run(campaign)

    assert mail_server.reached() == FIVE


@pytest.mark.django_db(transaction=True)
def test_several_workers_at_it_mail_everybody_once(campaign, mail_server):
    def work():
        run(campaign)
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert sorted(mail_server.reached()) == FIVE


@pytest.mark.django_db
def test_a_campaign_deleted_in_the_meantime_is_no_error(campaign, mail_server):
    Campaign.objects.all().delete()

    assert run(campaign).get() == "0 of 0 sent."
    assert mail_server.mails == []


def test_every_attempt_carries_the_same_message_id(campaign):
    recipient = campaign.recipients.first()
    ids = {mail(recipient).message()["Message-ID"] for _ in range(2)}

    assert ids == {f"<campaign-{campaign.pk}-{recipient.pk}@localhost>"}


def test_the_pauses_between_attempts_grow_and_are_scattered(campaign, mail_server, monkeypatch):
    mail_server.busy_for = 10**6
    runs: list[list[float]] = []
    retry = send_campaign.retry

    def note(*args, **options):
        runs[-1].append(options["countdown"])
        return retry(*args, **options)

    # What Celery's autoretry asks the task for; an eager run does not wait for it.
    monkeypatch.setattr(send_campaign, "retry", note)
    for _ in range(8):
        runs.append([])
        run(campaign)

    for attempt, pauses in enumerate(zip(*runs, strict=True)):
        assert all(0 <= pause <= 2 * 2**attempt for pause in pauses)
        assert attempt < 5 or len(set(pauses)) > 1  # scattered: 8 equal ones of 64 seconds are no accident
    assert max(runs[-1] + runs[0]) > 2 * 2**4  # longer than any of the first five can be
