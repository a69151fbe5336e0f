"""What a visitor meets: the form, and the page after it."""

import html
import re
import time
import uuid

import pytest
from django.db import transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from celeriac.models import Job
from demos.feedback.models import Feedback

pytestmark = pytest.mark.usefixtures("_no_posts_yet")
FORM = {"email": "mina@example.org", "message": "The new search is quick."}


@pytest.mark.django_db(transaction=True)
def test_a_feedback_is_saved_and_its_id_queued_once_it_is_committed(client, queued):
    response = client.post("/feedback/", FORM)

    feedback = Feedback.objects.get()
    assert (feedback.email, feedback.message) == (FORM["email"], FORM["message"])
    assert response.status_code == 302
    assert response["Location"] == f"/feedback/{feedback.pk}/"
    assert queued() == [[str(feedback.pk)]]


def test_its_job_is_written_with_it_and_nothing_is_queued_before_the_commit(
    client, queued, django_capture_on_commit_callbacks
):
    with django_capture_on_commit_callbacks() as callbacks:
        client.post("/feedback/", FORM)
        assert Job.objects.get().args == f"'{Feedback.objects.get().pk}'"
        assert queued() == []

    callbacks[0]()
    assert queued() == [[str(Feedback.objects.get().pk)]]


@pytest.mark.django_db(transaction=True)
def test_a_feedback_whose_transaction_is_rolled_back_leaves_no_job(client, queued):
    with transaction.atomic():
        client.post("/feedback/", FORM)
        transaction.set_rollback(True)

    assert not Job.objects.exists()
    assert queued() == []


@pytest.mark.django_db(transaction=True)
def test_a_feedback_is_mailed_although_redis_was_away_when_it_was_sent(
    client, app, broker, start_worker, ended, mail_server, settings
):
    broker.stop()
    began = time.monotonic()
    page = client.post("/feedback/", FORM, follow=True).content.decode()
    assert time.monotonic() - began < 15
    assert "Saved, and waiting for a worker" in page

    broker.start()
    start_worker("-c", "1", EMAIL_URL=f"smtp://127.0.0.1:{settings.EMAIL_PORT}")

    assert ended(Job.objects.get().pk).state == "succeeded"
    assert Feedback.objects.get().state == "delivered"
    assert len(mail_server.mails) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("broker_away", "results_away")
def test_a_feedback_is_saved_even_when_broker_and_results_are_away(client):
    assert client.post("/feedback/", FORM).status_code == 302
    assert Feedback.objects.get().state == "queued"
    assert Job.objects.get().state == "waiting"


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("email", "", "Enter your email address, so that we can answer you."),
        ("email", "mina at example", "Enter an email address like name@example.org."),
        ("email", "mina@example.org\nBcc: all@example.org", "Enter an email address like name@example.org."),
        ("message", " \n ", "Write us a few words."),
        ("message", "x" * 5001, "Shorten this to 5000 characters; it has 5001."),
    ],
    ids=["no address", "bad address", "two headers", "blank message", "long message"],
)
def test_a_mistake_is_named_at_its_field_and_the_input_kept(client, field, value, error):
    data = {**FORM, field: value}
    page = html.unescape(client.post("/feedback/", data).content.decode())

    (tag,) = re.findall(rf'<(?:input|textarea)[^>]* id="id_{field}"[^>]*>', page)
    assert 'aria-invalid="true"' in tag
    assert re.search(rf'aria-describedby="[^"]*\bid_{field}_error"', tag)
    assert " autofocus" in tag
    assert f'<ul class="errorlist" id="id_{field}_error"><li>{error}</li></ul>' in page
    assert all(kept.strip() in page for kept in data.values())
    assert "<title>Error: " in page
    assert not Feedback.objects.exists()


def test_every_input_has_a_label(client):
    page = client.get("/feedback/").content.decode()

    assert '<label for="id_email">Your email address</label>' in page
    assert '<label for="id_message">Your message</label>' in page


def test_a_line_break_counts_as_one_character(client, django_capture_on_commit_callbacks):
    message = "\r\n".join(["x"] * 2500)  # 4999 characters as people count, 7498 as browsers send them
    with django_capture_on_commit_callbacks():
        client.post("/feedback/", {**FORM, "message": message})

    assert Feedback.objects.get().message == message.replace("\r\n", "\n")


def test_too_many_posts_get_429_and_lose_no_input(client, settings, django_capture_on_commit_callbacks):
    settings.DEMO_POSTS_PER_MINUTE = 1
    with django_capture_on_commit_callbacks():
        client.post("/feedback/", FORM)
    response = client.post("/feedback/", {**FORM, "message": "One more thing."})

    page = response.content.decode()
    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= 60
    assert "That is a lot for one minute." in page
    assert "One more thing." in page
    assert 'value="mina@example.org"' in page
    assert Feedback.objects.count() == 1


def test_a_post_from_another_site_is_refused(db):
    assert Client(enforce_csrf_checks=True).post("/feedback/", FORM).status_code == 403


def page_of(client, feedback, seen=None):
    name = "feedback:detail" if seen is None else "feedback:status"
    return client.get(reverse(name, args=[feedback.pk]), {"seen": seen} if seen else None)


def test_the_page_shows_the_message_and_stays_out_of_caches(client, feedback):
    feedback.message = "<script>alert(1)</script>"
    feedback.save()
    response = page_of(client, feedback)

    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in response.content.decode()
    assert "no-store" in response["Cache-Control"]


@pytest.mark.parametrize("name", ["detail", "status"])
def test_a_page_that_nobody_sent_is_not_found(client, db, name):
    assert client.get(reverse(f"feedback:{name}", args=[uuid.uuid4()])).status_code == 404


def test_the_page_asks_again_while_something_can_change(client, feedback):
    page = html.unescape(page_of(client, feedback).content.decode())

    assert f'hx-get="/feedback/{feedback.pk}/status/?seen=queued-0"' in page
    assert "hx-trigger=\"every 1s [document.visibilityState=='visible']\"" in page
    assert 'aria-live="polite"' in page
    assert '<li aria-current="step">Queued</li>' in page


def test_the_status_answers_only_when_there_is_news(client, feedback):
    assert page_of(client, feedback, seen="queued-0").status_code == 204

    Feedback.objects.update(task_id="a task", attempts=2)
    news = page_of(client, feedback, seen="queued-0")
    assert news.status_code == 200
    assert "A worker is sending it: attempt 2." in news.content.decode()


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("delivered_at", "Delivered at attempt 2."),
        ("failed_at", "It could not be delivered, and we stopped trying after 2 attempts."),
    ],
)
def test_the_page_stops_asking_at_the_end(client, feedback, end, words):
    Feedback.objects.update(task_id="a task", attempts=2, **{end: timezone.now()})
    news = page_of(client, feedback, seen="running-2").content.decode()

    assert words in news
    assert "hx-trigger" not in news


def test_without_scripts_there_is_a_link_to_look_again(client, feedback):
    page = page_of(client, feedback).content.decode()

    assert f'<noscript><p><a href="/feedback/{feedback.pk}/">Reload this page</a>' in page
