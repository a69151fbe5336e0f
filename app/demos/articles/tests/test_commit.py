"""The race for the commit, with a real worker, and a transaction that is open while it works."""

import pytest
from celery import current_app
from django.db import transaction
from django_celery_results.models import TaskResult

from celeriac.models import TrackedTask
from config.tasks import debug_task
from demos.articles import views
from demos.articles.models import Article
from demos.articles.tasks import expand_abbreviations
from tests.waiting import eventually

pytestmark = pytest.mark.usefixtures("_no_posts_yet")


def ended(task_id):
    return TaskResult.objects.filter(task_id=task_id, status__in=["SUCCESS", "FAILURE"]).first()


@pytest.mark.django_db(transaction=True)
def test_a_worker_finds_no_row_before_the_commit_and_one_that_is_queued_on_commit_finds_it(
    client, queued, start_worker, monkeypatch
):
    """What the page's two buttons do: the first shows the race, the second what ends it."""
    seen_before_the_commit = {}

    def rest_of_the_request():
        """The transaction of the request is open. READ COMMITTED shows it what the worker has stored meanwhile."""
        later = debug_task.delay()  # by the same queue to the only child: what was sent before has ended before
        eventually(lambda: ended(later.id))
        task = TrackedTask.objects.latest("started_at")
        seen_before_the_commit[task.label] = ended(task.pk)

    monkeypatch.setattr(views, "rest_of_the_request", rest_of_the_request)
    start_worker("-c", "1", CELERY_BROKER_URL=current_app.conf.broker_url)

    client.post("/articles/commit/", {"way": "inside"})
    wrong = TrackedTask.objects.get(label=views.WAYS["inside"])
    assert seen_before_the_commit[wrong.label].status == "FAILURE"
    assert "DoesNotExist" in ended(wrong.pk).result
    assert Article.objects.get(title=wrong.label).body == views.FIRST_TEXT  # it is there now, and nobody works on it

    client.post("/articles/commit/", {"way": "on_commit"})
    right = TrackedTask.objects.get(label=views.WAYS["on_commit"])
    assert seen_before_the_commit[right.label] is None
    assert eventually(lambda: ended(right.pk)).status == "SUCCESS"
    assert Article.objects.get(title=right.label).body.startswith("for your information: My Corporation")

    page = client.get("/articles/").content.decode()
    assert "DoesNotExist: Article matching query does not exist." in page
    assert "4 abbreviations spelt out." in page


@pytest.mark.django_db(transaction=True)
def test_a_transaction_that_is_rolled_back_takes_its_task_with_it(queued):
    def write(publish):
        with transaction.atomic():
            publish(str(Article.objects.create(title="Never", body="Never").pk))
            transaction.set_rollback(True)

    write(expand_abbreviations.delay_on_commit)
    assert queued() == {}

    write(expand_abbreviations.delay)
    assert list(queued()) == ["expand_abbreviations"]  # a task for an article that never was
    assert not Article.objects.exists()
