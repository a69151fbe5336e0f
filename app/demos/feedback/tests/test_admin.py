"""What staff can do, and cannot."""

import threading

import pytest
from django.db import connection, transaction
from django.urls import reverse
from django.utils import timezone

from celeriac.jobs import batches
from celeriac.models import Job
from demos.feedback.models import Feedback
from demos.feedback.tasks import send_feedback

LIST = "/admin/feedback/feedback/"


@pytest.fixture
def staff(client, sign_in):
    """The browser of a member of staff who may do ``permissions`` with feedback."""

    def staff(*permissions):
        sign_in(*(f"{permission}_feedback" for permission in permissions))
        return client

    return staff


def send_again(client, *feedback):
    data = {"action": "send_again", "_selected_action": [str(row.pk) for row in feedback]}
    return client.post(LIST, data, follow=True).content.decode()


@pytest.mark.django_db(transaction=True)
def test_what_failed_is_sent_again_and_what_is_delivered_is_not(staff, feedback, queued):
    Feedback.objects.update(failed_at=timezone.now(), error="SMTPException: no", task_id="a task")
    delivered = Feedback.objects.create(email="ok@example.org", message="…", delivered_at=timezone.now())

    page = send_again(staff("view", "change"), feedback, delivered)

    feedback.refresh_from_db()
    assert queued() == [[str(feedback.pk)]]
    assert (feedback.state, feedback.failed_at, feedback.error) == ("queued", None, "")
    assert "Queued again: 1." in page
    assert "Skipped, as delivered or just being sent: 1 (ok@example.org" in page


@pytest.mark.django_db(transaction=True)
def test_what_a_worker_is_sending_just_now_is_left_to_it(staff, feedback, queued):
    sending, done = threading.Event(), threading.Event()

    def worker():
        with transaction.atomic():
            Feedback.objects.select_for_update().get()
            sending.set()
            done.wait(60)
        connection.close()

    thread = threading.Thread(target=worker)
    thread.start()
    assert sending.wait(60)
    page = send_again(staff("view", "change"), feedback)
    done.set()
    thread.join()

    assert "Skipped, as delivered or just being sent: 1" in page
    assert queued() == []


@pytest.mark.django_db(transaction=True)
def test_it_is_sent_again_by_the_job_that_failed_so_none_is_left_behind(staff, feedback, queued):
    job_id = send_feedback.delay(str(feedback.pk)).id
    queued()
    Job.objects.update(state="failed", error="SMTPException: no", finished_at=timezone.now())
    Feedback.objects.update(failed_at=timezone.now(), error="SMTPException: no", task_id=job_id)

    send_again(staff("view", "change"), feedback)

    assert queued() == [[str(feedback.pk)]]
    assert [(job.pk, job.state) for job in Job.objects.all()] == [(job_id, "waiting")]


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("broker_away")
def test_it_can_be_sent_again_while_the_broker_is_away(staff, feedback):
    assert "Queued again: 1." in send_again(staff("view", "change"), feedback)
    batches.unfold_all()
    assert Job.objects.get().state == "waiting"


@pytest.mark.django_db(transaction=True)
def test_who_may_only_look_cannot_send_again(staff, feedback, queued):
    assert "Queued again" not in send_again(staff("view"), feedback)
    assert queued() == []


def test_the_list_can_be_searched_and_says_the_state(staff, feedback):
    client = staff("view")

    assert "mina@example.org" in client.get(LIST, {"q": "search is quick"}).content.decode()
    assert "mina@example.org" not in client.get(LIST, {"q": "nothing like it"}).content.decode()
    assert '<td class="field-state">queued</td>' in client.get(LIST).content.decode()


def test_nothing_can_be_edited_or_added(staff, feedback):
    client = staff("view", "add", "change")
    address = reverse("admin:feedback_feedback_change", args=[feedback.pk])
    page = client.get(address).content.decode()
    client.post(address, {"email": "other@example.org", "message": "other"})

    feedback.refresh_from_db()
    assert feedback.email == "mina@example.org"
    assert 'name="_save"' not in page
    assert client.get(f"{LIST}add/").status_code == 403
