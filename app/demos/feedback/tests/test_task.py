"""The mail behind a feedback: sent once, whatever is away, and never lost."""

import threading
from email import message_from_bytes, policy

import pytest
from django.db import connection

from demos.feedback.models import Feedback
from demos.feedback.tasks import mail, send_feedback


def run(feedback):
    """Run the real task here and now; its retries follow without their pauses."""
    result = send_feedback.apply([str(feedback.pk)])
    feedback.refresh_from_db()
    return result


def test_the_mail_goes_to_the_owner_and_the_answer_to_the_visitor(feedback, mail_server, settings):
    settings.DEFAULT_FROM_EMAIL = "Celeriac <site@example.net>"
    result = run(feedback)

    envelope = mail_server.mails[0]
    message = message_from_bytes(envelope.content, policy=policy.default)
    assert envelope.rcpt_tos == ["site@example.net"]
    assert message["Subject"] == "Feedback from the site"
    assert message["Reply-To"] == "mina@example.org"
    assert "The new search is quick." in message.get_content()
    assert "mina@example.org" in message.get_content()
    assert (feedback.state, feedback.attempts, feedback.task_id) == ("delivered", 1, result.id)


def test_feedback_to_names_another_owner(feedback, mail_server, settings):
    settings.FEEDBACK_TO = "owner@example.net"
    run(feedback)

    assert mail_server.mails[0].rcpt_tos == ["owner@example.net"]


def test_a_visitor_cannot_mail_anyone_else_through_us(feedback):
    message = mail(feedback)

    assert feedback.email not in message.recipients()
    assert "\n" not in str(message.message()["Reply-To"])


def test_a_busy_mail_server_is_tried_again(feedback, mail_server):
    mail_server.busy_for = 3
    run(feedback)

    assert len(mail_server.mails) == 1
    assert (feedback.state, feedback.attempts, feedback.error) == ("delivered", 4, "")


def test_every_attempt_carries_the_same_message_id(feedback, settings):
    ids = {mail(feedback).message()["Message-ID"] for _ in range(2)}

    assert ids == {f"<feedback-{feedback.pk}@localhost>"}


@pytest.mark.usefixtures("smtp")
def test_when_every_retry_is_used_up_the_row_says_why(feedback):
    run(feedback)

    assert feedback.attempts == 1 + send_feedback.max_retries
    assert feedback.state == "failed"
    assert feedback.failed_at
    assert feedback.error.startswith("ConnectionRefusedError: ")


def test_an_error_that_does_not_pass_fails_at_once(feedback, settings):
    settings.EMAIL_BACKEND = "no.such.backend"
    run(feedback)

    assert (feedback.attempts, feedback.state) == (1, "failed")
    assert feedback.error == "ModuleNotFoundError: No module named 'no'"


def test_a_later_delivery_clears_the_failure(feedback, mail_server):
    mail_server.busy_for = 9
    run(feedback)
    assert feedback.state == "failed"

    run(feedback)
    assert (feedback.state, feedback.failed_at, feedback.error) == ("delivered", None, "")


def test_an_attempt_after_a_crash_does_not_mail_twice(feedback, mail_server):
    run(feedback)
    run(feedback)

    assert len(mail_server.mails) == 1
    assert feedback.attempts == 1


@pytest.mark.django_db(transaction=True)
def test_several_workers_at_it_mail_once(feedback, mail_server):
    def work():
        send_feedback.apply([str(feedback.pk)])
        connection.close()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert len(mail_server.mails) == 1


@pytest.mark.django_db
def test_a_feedback_deleted_in_the_meantime_is_no_error(feedback, mail_server):
    Feedback.objects.all().delete()

    assert send_feedback.apply([str(feedback.pk)]).successful()
    assert mail_server.mails == []


def test_the_task_is_durable_and_backs_off_with_jitter():
    assert send_feedback.durable
    assert (send_feedback.retry_backoff, send_feedback.retry_backoff_max) == (2, 600)
    assert send_feedback.retry_jitter


def test_the_default_mailbox_takes_the_mail(feedback, settings, tmp_path):
    settings.EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
    settings.EMAIL_FILE_PATH = str(tmp_path)
    run(feedback)

    assert feedback.state == "delivered"
    assert "Reply-To: mina@example.org" in next(tmp_path.iterdir()).read_text()
