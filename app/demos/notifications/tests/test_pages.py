"""What a visitor meets: the form, the campaign, and the tasks that meet their time limits."""

import html
import time
from email import message_from_bytes, policy

import pytest
from celery import current_app, states
from celery.exceptions import TimeLimitExceeded
from django.test import Client
from django.utils import timezone

from celeriac.models import Job, TrackedTask
from demos.notifications.models import Campaign, Recipient
from demos.notifications.tasks import polite, send_campaign, stubborn

pytestmark = [pytest.mark.usefixtures("_no_posts_yet"), pytest.mark.django_db(transaction=True)]
FORM = {"subject": "Open", "text": "Come and see.", "addresses": "ada@example.org\n grace@example.com \n"}


@pytest.fixture
def queued():
    """Take out of the broker's queue what is in it: each task's name, its arguments, and what headers are asked for."""
    with current_app.connection_for_write() as connection:
        channel = connection.default_channel

        def take(*headers):
            messages = iter(lambda: channel.basic_get("default", no_ack=True), None)
            return [(m.headers["task"], m.payload[0], *(m.headers[each] for each in headers)) for m in messages]

        take()
        yield take
        take()


def words(response):
    return html.unescape(response.content.decode())


def test_a_campaign_is_saved_with_its_recipients_and_its_id_queued(client, queued):
    response = client.post("/notifications/", FORM)

    campaign = Campaign.objects.get()
    assert response["Location"] == f"/notifications/{campaign.pk}/"
    assert [row.email for row in campaign.recipients.all()] == ["ada@example.org", "grace@example.com"]
    assert not campaign.for_real
    assert queued() == [(send_campaign.name, [str(campaign.pk)])]
    assert campaign.task_id == Job.objects.get().pk


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("subject", " ", "Write a subject; people decide by it what to read."),
        ("subject", "x" * 121, "Shorten this to 120 characters; it has 121."),
        ("text", "", "Write what they should read."),
        ("addresses", "\n\n", "Write at least one address."),
        ("addresses", "a@example.org\n\nb at example", "Line 3: write b at example like name@example.org."),
        ("addresses", "a@b.example\n", "Line 1: a@b.example may be somebody's; write one like name@example.org."),
        ("addresses", "a@evil.org.\n", "Line 1: write a@evil.org. like name@example.org."),
        ("addresses", "a@example.org.evil.org", "Line 1: a@example.org.evil.org may be somebody's; write one like"),
        ("addresses", "a@example.org, b@gmail.com", "Line 1: write a@example.org, b@gmail.com like name@example.org."),
        ("addresses", "\n".join(f"{n}@example.org" for n in range(11)), "These are 11 addresses; leave at most 10."),
        ("addresses", "x\n" * 9, "And 4 more lines like these."),
    ],
)
def test_a_mistake_is_named_at_its_field_and_nothing_is_lost_or_sent(client, queued, field, value, error):
    data = {**FORM, field: value}
    page = words(client.post("/notifications/", data))

    errors = page.split(f'id="id_{field}_error"')[1].split("</ul>")[0]
    assert error in errors
    assert all(kept.strip() in page for kept in data.values())
    assert not Campaign.objects.exists()
    assert queued() == []


def test_an_address_that_is_there_twice_gets_one_mail(client):
    client.post("/notifications/", {**FORM, "addresses": "ada@example.org\nAda@Example.org"})

    assert [row.email for row in Recipient.objects.all()] == ["ada@example.org"]


def test_a_line_break_in_the_subject_begins_no_other_header(client):
    client.post("/notifications/", {**FORM, "subject": "Open\nBcc: all@example.net"})

    assert Campaign.objects.get().subject == "Open Bcc: all@example.net"


def test_who_is_signed_in_may_give_fifty_addresses(client, sign_in):
    sign_in()
    fifty = "\n".join(f"{n}@example.org" for n in range(50))
    client.post("/notifications/", {**FORM, "addresses": fifty})
    more = client.post("/notifications/", {**FORM, "addresses": f"{fifty}\n50@example.org"})

    assert Recipient.objects.count() == 50
    assert "These are 51 addresses; leave at most 50." in words(more)


@pytest.mark.parametrize("signed_in", [False, True])
def test_without_the_permission_nothing_is_for_real_not_even_by_a_forged_form(client, sign_in, signed_in):
    if signed_in:
        sign_in("view_campaign", "change_campaign")
    assert "for_real" not in words(client.get("/notifications/"))
    strangers = client.post("/notifications/", {**FORM, "for_real": "on", "addresses": "a@b.org"})
    reserved = client.post("/notifications/", {**FORM, "for_real": "on"})

    assert "a@b.org may be somebody's" in words(strangers)
    assert reserved.status_code == 302
    assert not Campaign.objects.get().for_real


def test_with_the_permission_it_is_for_real_only_when_it_is_chosen(client, sign_in):
    sign_in("mail_anyone")
    unchosen = client.post("/notifications/", {**FORM, "addresses": "a@b.org"})
    client.post("/notifications/", {**FORM, "for_real": "on", "addresses": "a@b.org"})

    assert "a@b.org may be somebody's" in words(unchosen)
    campaign = Campaign.objects.get()
    assert campaign.for_real
    assert [row.email for row in campaign.recipients.all()] == ["a@b.org"]


def test_nobody_else_can_see_or_send_a_campaign(campaign, visitor, queued):
    stranger = Client()

    assert visitor.get(f"/notifications/{campaign.pk}/").status_code == 200
    assert stranger.get(f"/notifications/{campaign.pk}/").status_code == 404
    assert stranger.get(f"/notifications/{campaign.pk}/recipients/").status_code == 404
    assert stranger.post(f"/notifications/{campaign.pk}/rest/").status_code == 404
    assert queued() == []


def test_the_recipients_are_told_as_they_are_sent_until_the_end(campaign, visitor, queued):
    visitor.post(f"/notifications/{campaign.pk}/rest/")
    assert queued() == [(send_campaign.name, [str(campaign.pk)])]
    address = f"/notifications/{campaign.pk}/recipients/"
    page = words(visitor.get(f"/notifications/{campaign.pk}/"))
    assert f'hx-get="{address}?seen=5-True"' in page

    assert visitor.get(address, {"seen": "5-True"}).status_code == 204
    Recipient.objects.filter(email="ada@example.org").update(sent_at=timezone.now())
    assert "ada@example.org: <strong>sent</strong>" in words(visitor.get(address, {"seen": "5-True"}))

    assert "Send the rest again" not in page

    campaign.refresh_from_db()
    current_app.backend.store_result(campaign.task_id, OSError("away"), states.FAILURE)
    news = words(visitor.get(address, {"seen": "4-True"}))
    assert "hx-get" not in news
    assert "Send the rest again" in news


def test_the_rest_is_sent_by_the_job_that_failed(campaign, visitor, queued):
    visitor.post(f"/notifications/{campaign.pk}/rest/")
    queued()
    job_id = Job.objects.get().pk
    current_app.backend.store_result(job_id, OSError("away"), states.FAILURE)
    Job.objects.update(state="failed", finished_at=timezone.now())

    visitor.post(f"/notifications/{campaign.pk}/rest/")
    visitor.post(f"/notifications/{campaign.pk}/rest/")  # a second click: it is under way

    assert queued() == [(send_campaign.name, [str(campaign.pk)])]
    assert [(job.pk, job.state) for job in Job.objects.all()] == [(job_id, "waiting")]
    assert f'hx-get="/tasks/{job_id}/status/' in words(visitor.get(f"/notifications/{campaign.pk}/"))


def test_a_campaign_outlives_the_record_of_its_task(campaign, visitor, queued):
    visitor.post(f"/notifications/{campaign.pk}/rest/")
    TrackedTask.objects.all().delete()  # as the platform does when results expire
    page = words(visitor.get(f"/notifications/{campaign.pk}/"))

    assert "ada@example.org: waiting" in page
    assert "Send the rest again" in page
    assert "hx-get" not in page


def test_a_campaign_that_is_sent_has_no_rest(campaign, visitor, queued):
    Recipient.objects.update(sent_at=timezone.now())

    assert "Send the rest again" not in words(visitor.get(f"/notifications/{campaign.pk}/"))
    visitor.post(f"/notifications/{campaign.pk}/rest/")
    assert queued() == []


def test_a_campaign_is_mailed_although_redis_was_away_when_it_was_sent(
    client, app, broker, start_worker, ended, mail_server, settings
):
    broker.stop()
    began = time.monotonic()
    page = words(client.post("/notifications/", FORM, follow=True))
    assert time.monotonic() - began < 15
    campaign = Campaign.objects.get()
    assert f'hx-get="/tasks/{campaign.task_id}/status/' in page

    broker.start()
    start_worker("-c", "1", EMAIL_URL=f"smtp://127.0.0.1:{settings.EMAIL_PORT}")

    assert ended(campaign.task_id).result == '"2 of 2 sent."'
    texts = [message_from_bytes(mail.content, policy=policy.default).get_content() for mail in mail_server.mails]
    assert [text.splitlines()[0] for text in texts] == ["To ada@example.org:", "To grace@example.com:"]
    assert "2 of 2 sent." in words(client.get(f"/notifications/{campaign.pk}/"))


def test_the_buttons_start_the_two_tasks_with_their_limits(client, queued):
    for name in ("polite", "stubborn"):
        assert client.post("/notifications/limits/", {"task": name}).status_code == 302

    assert queued("timelimit") == [(polite.name, [20], [4, 2]), (stubborn.name, [20], [4, 2])]


def test_the_page_shows_that_a_task_was_killed(client):
    client.post("/notifications/limits/", {"task": "stubborn"})
    task = TrackedTask.objects.get()
    current_app.backend.mark_as_failure(task.pk, TimeLimitExceeded(4))

    assert "It took longer than 4 seconds and was stopped." in words(client.get("/notifications/"))


@pytest.mark.usefixtures("broker_away")
def test_while_the_broker_is_away_no_task_is_shown_that_never_comes(client):
    page = words(client.post("/notifications/limits/", {"task": "polite"}, follow=True))

    assert "The queue cannot be reached just now. Nothing was started" in page
    assert 'class="task' not in page


def test_only_the_two_tasks_can_be_started(client, queued):
    assert client.post("/notifications/limits/", {"task": "daily_message"}).status_code == 404
    assert queued() == []


def test_too_many_posts_get_429_and_lose_no_input(campaign, visitor, settings, queued):
    settings.DEMO_POSTS_PER_MINUTE = 1
    visitor.post("/notifications/limits/", {"task": "polite"})
    queued()
    new = visitor.post("/notifications/", {**FORM, "text": "One more thing."})
    others = [
        visitor.post(f"/notifications/{campaign.pk}/rest/"),
        visitor.post("/notifications/limits/", {"task": "polite"}),
    ]

    assert "One more thing." in words(new)
    for response in (new, *others):
        assert response.status_code == 429
        assert 0 < int(response["Retry-After"]) <= 60
        assert "That is a lot for one minute." in words(response)
    assert queued() == []


def test_staff_can_read_campaigns_and_change_none(client, sign_in, campaign):
    sign_in("view_campaign", "change_campaign", "add_campaign", "view_recipient")
    address = f"/admin/notifications/campaign/{campaign.pk}/change/"
    page = words(client.get(address))

    assert "ada@example.org" in page
    assert 'name="_save"' not in page
    assert client.post(address, {"subject": "Other"}).status_code == 403
    assert client.get("/admin/notifications/campaign/add/").status_code == 403
