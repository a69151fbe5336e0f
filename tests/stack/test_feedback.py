"""The main job: someone sends feedback, is answered at once, and a worker mails it."""

import time
from urllib.parse import urlsplit

import pytest

from tests.stack.mailserver import MailServer
from tests.stack.project import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.stack

AT_ONCE = 8.0  # seconds; the mail server is waited for longer than that (EMAIL_TIMEOUT)


def test_a_feedback_arrives_as_a_mail(stack: Stack, mail: MailServer) -> None:
    answer = stack.give_feedback("The celery is crisp.")
    assert answer.status == 302
    stack.delivered(answer.location)
    (arrived,) = mail.about("The celery is crisp.")
    assert arrived["Reply-To"] == "ada@example.org"
    assert arrived["Subject"] == "Feedback from the site"


def test_the_admin_shows_the_feedback_and_the_task_with_its_arguments(stack: Stack) -> None:
    answer = stack.give_feedback("Shown to the staff.")
    stack.delivered(answer.location)
    feedback_id = urlsplit(answer.location).path.split("/")[2]

    admin = stack.admin()
    listed = admin.get("/admin/feedback/feedback/")
    assert "Shown to the staff." in listed.text
    shown = admin.get(f"/admin/feedback/feedback/{feedback_id}/change/")
    assert "delivered" in shown.text

    (result,) = eventually(lambda: stack.results(f"task_args LIKE '%{feedback_id}%' AND status = 'SUCCESS'"))
    page = admin.get(f"/admin/django_celery_results/taskresult/{result['id']}/change/")
    assert feedback_id in page.text, "the task's arguments"
    assert "demos.feedback.tasks.send_feedback" in page.text
    assert result["worker"].startswith("default@")


def test_the_job_of_a_feedback_says_how_it_went(stack: Stack, mail: MailServer) -> None:
    mail.refuse = 1
    answer = stack.give_feedback("Written down with its job.")
    stack.delivered(answer.location)
    feedback_id = urlsplit(answer.location).path.split("/")[2]

    ended = f"SELECT * FROM celeriac_job WHERE args LIKE '%{feedback_id}%' AND finished_at IS NOT NULL"
    (job,) = eventually(lambda: stack.sql(ended), what="its job has ended")  # a moment after the mail
    assert (job["task"], job["state"]) == ("demos.feedback.tasks.send_feedback", "succeeded")
    assert (job["attempts"], job["retries"], job["crashes"]) == (2, 1, 0)
    assert job["id"] in stack.admin().get(f"/admin/feedback/feedback/{feedback_id}/change/").text


def test_a_mail_server_that_refuses_twice_gets_the_mail_the_third_time(stack: Stack, mail: MailServer) -> None:
    mail.refuse = 2
    answer = stack.give_feedback("Third time lucky.")
    stack.delivered(answer.location)
    assert mail.refused == 2
    assert len(mail.about("Third time lucky.")) == 1
    assert "at attempt 3" in stack.visitor().get(answer.location).text


def test_the_visitor_never_waits_for_the_mail_server(stack: Stack, mail: MailServer) -> None:
    mail.hang = True
    visitor = stack.visitor()
    began = time.monotonic()
    answer = stack.give_feedback("Sent to a server that hangs.", visitor)
    assert answer.status == 302
    assert visitor.get(answer.location).status == 200
    assert time.monotonic() - began < AT_ONCE
    eventually(lambda: stack.feedback_state(answer.location) == "running", what="a worker waits for the mail server")
    mail.hang = False
    stack.delivered(answer.location)
    assert len(mail.about("Sent to a server that hangs.")) == 1


def test_a_mistake_in_the_form_is_named_and_nothing_is_sent(stack: Stack) -> None:
    answer = stack.visitor().submit("/feedback/", email="no address", message="Not sent.")
    assert answer.status == 200
    assert "Enter an email address like name@example.org." in answer.text
    assert "Not sent." in answer.text, "what was typed is kept"
    assert not stack.sql("SELECT 1 FROM feedback_feedback WHERE message = 'Not sent.'")


def test_a_post_without_a_csrf_token_or_from_another_site_is_refused(stack: Stack) -> None:
    visitor = stack.visitor()
    assert visitor.post("/feedback/", {"email": "ada@example.org", "message": "forged"}).status == 403
    visitor.base = "http://evil.example"  # sent as the Origin
    assert visitor.request(f"{stack.site}/feedback/").status == 200
    token = next(iter(visitor.cookies)).value
    fields = {"csrfmiddlewaretoken": token, "email": "ada@example.org", "message": "forged"}
    assert visitor.post(f"{stack.site}/feedback/", fields).status == 403


def test_another_host_name_is_refused(stack: Stack) -> None:
    assert stack.visitor().get("/", Host="evil.example").status == 400
