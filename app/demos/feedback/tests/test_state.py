"""The state a visitor is told is the state it is in."""

import pytest
from celery import current_app, states
from celery.utils import uuid
from django.utils import timezone

from demos.feedback.models import Feedback


def test_a_feedback_no_worker_has_had_is_queued(feedback):
    assert feedback.state == "queued"


@pytest.mark.parametrize(
    ("celery_says", "state"),
    [
        (None, "running"),  # no result yet: the task writes its row before Celery writes the result's
        (states.STARTED, "running"),
        (states.RETRY, "retrying"),
        (states.FAILURE, "failed"),  # as when it killed every worker, which could not write the row
        (states.REVOKED, "failed"),
    ],
)
def test_while_a_task_has_it_celery_is_asked(feedback, celery_says, state):
    feedback.task_id = uuid()
    if celery_says:
        error = ConnectionRefusedError() if celery_says in states.EXCEPTION_STATES else None
        current_app.backend.store_result(feedback.task_id, error, celery_says)

    assert feedback.state == state


@pytest.mark.parametrize(("end", "state"), [("delivered_at", "delivered"), ("failed_at", "failed")])
def test_what_the_row_says_outlives_the_result(end, state):
    assert Feedback(task_id=uuid(), **{end: timezone.now()}).state == state


def test_a_delivery_after_a_failure_counts():
    assert Feedback(failed_at=timezone.now(), delivered_at=timezone.now()).state == "delivered"


@pytest.mark.usefixtures("results_away")
def test_the_page_works_while_the_results_are_away(client, feedback):
    Feedback.objects.update(task_id=uuid(), attempts=1)

    response = client.get(f"/feedback/{feedback.pk}/")
    assert response.status_code == 200
    assert "A worker is sending it." in response.content.decode()
