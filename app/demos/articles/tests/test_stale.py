"""The race for the text: an edit that is saved while a task is on its way."""

import threading

import pytest
from celery import current_app
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from demos.articles.models import Article
from demos.articles.tasks import expand, expand_abbreviations, overwrite_with_stale
from demos.articles.tests.conftest import EDITED

TASKS = {"expand_abbreviations": expand_abbreviations, "overwrite_with_stale": overwrite_with_stale}


def edit(client, article, body):
    form = {"title": "Our party", "body": body, "version": article.version}
    return client.post(f"/articles/{article.pk}/", form)


@pytest.fixture
def race(client, article, queued):
    """Both tasks are queued, the article is edited, and only then a worker comes to the queue."""
    client.post(f"/articles/{article.pk}/start/")
    messages = queued()
    edit(client, article, EDITED)
    for name, (task_id, args) in messages.items():
        result = TASKS[name].apply(args, task_id=task_id)
        current_app.backend.store_result(task_id, result.result, result.state)  # which `apply` leaves out
    article = Article.objects.get(pk=article.pk)  # its twin is read anew, too
    return article, article.twin


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_no_posts_yet")
def test_an_edit_survives_the_task_that_has_the_articles_id(race):
    article, _ = race

    assert article.title == "Our party"
    assert article.body == "for your information: My Corporation needs this, and cake."


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_no_posts_yet")
def test_the_task_that_has_the_article_in_its_message_throws_the_edit_away(race):
    _, twin = race

    assert twin.title == "Our meeting"
    assert twin.body == "for your information: My Corporation needs this."


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("_no_posts_yet")
def test_the_page_shows_both_and_says_which_has_lost_the_edit(client, race):
    article, _ = race
    page = client.get(f"/articles/{article.pk}/texts/").content.decode()
    first, second = page.split('aria-label="The second copy"')

    assert "and cake." in first
    assert "Your edit is here." in first
    assert "and cake." not in second
    assert "Your edit is gone." in second
    assert "hx-get" not in page  # nothing can change any more


@pytest.mark.django_db(transaction=True)
def test_an_edit_that_is_just_being_saved_is_waited_for(article):
    """Fails without the lock: the task reads the old text before the edit's commit, and writes it after."""

    def work():
        expand_abbreviations.apply([str(article.pk)])
        connection.close()

    task = threading.Thread(target=work)
    with transaction.atomic():
        Article.objects.filter(pk=article.pk).update(body=EDITED)
        task.start()
        task.join(1)
        assert task.is_alive()  # it waits for this commit
    task.join(10)

    article.refresh_from_db()
    assert article.body == "for your information: My Corporation needs this, and cake."


@pytest.mark.django_db
def test_the_task_writes_only_what_it_changes(article):
    with CaptureQueriesContext(connection) as queries:
        expand_abbreviations.apply([str(article.pk)])

    (update,) = [query["sql"] for query in queries if query["sql"].startswith('UPDATE "articles_article"')]
    assert '"body" = ' in update
    assert "title" not in update.partition(" SET ")[2].partition(" WHERE ")[0]


@pytest.mark.django_db
def test_a_redelivered_task_changes_nothing_more(article):
    for _ in range(2):
        expand_abbreviations.apply([str(article.pk)])

    article.refresh_from_db()
    assert article.body == "for your information: My Corporation needs this."


def test_only_whole_words_are_abbreviations():
    assert expand("FYI, FYIs and notFYI; ASAP.") == (
        "for your information, FYIs and notFYI; as soon as possible.",
        2,
    )
