"""What a visitor meets: the forms, and who may see what."""

import html

import pytest
from celery import current_app, states
from django.test import Client

from celeriac.models import TrackedTask
from demos.articles.models import Article
from demos.articles.tasks import expand_abbreviations
from demos.articles.tests.conftest import EDITED

pytestmark = [pytest.mark.usefixtures("_no_posts_yet"), pytest.mark.django_db(transaction=True)]
FORM = {"title": "Our meeting", "body": "FYI: see you."}


def words(response):
    return html.unescape(response.content.decode())


def test_an_article_is_saved_with_its_twin_and_listed(client):
    response = client.post("/articles/", FORM, follow=True)

    article = Article.objects.get(twin_of=None)
    assert response.redirect_chain == [(f"/articles/{article.pk}/", 302)]
    assert (article.twin.title, article.twin.body) == (article.title, article.body) == ("Our meeting", "FYI: see you.")
    assert f'<a href="/articles/{article.pk}/">Our meeting</a>' in words(client.get("/articles/"))


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("title", " ", "Give it a title."),
        ("title", "x" * 121, "Shorten this to 120 characters; it has 121."),
        ("body", "", "Write a sentence or two."),
        ("body", "x" * 5001, "Shorten this to 5000 characters; it has 5001."),
    ],
    ids=["no title", "long title", "no text", "long text"],
)
def test_a_mistake_is_named_at_its_field_and_the_input_kept(client, field, value, error):
    data = {**FORM, field: value}
    page = words(client.post("/articles/", data))

    assert f'<ul class="errorlist" id="id_{field}_error"><li>{error}</li></ul>' in page
    assert all(kept.strip() in page for kept in data.values())
    assert not Article.objects.exists()


def test_nobody_else_can_see_edit_or_start_it(client, article, queued):
    stranger = Client()
    edit = {**FORM, "version": 1}

    assert client.get(f"/articles/{article.pk}/").status_code == 200
    assert stranger.get(f"/articles/{article.pk}/").status_code == 404
    assert stranger.get(f"/articles/{article.pk}/texts/").status_code == 404
    assert stranger.post(f"/articles/{article.pk}/", edit).status_code == 404
    assert stranger.post(f"/articles/{article.pk}/start/").status_code == 404
    assert queued() == {}
    assert str(article.pk) not in words(stranger.get("/articles/"))


def test_a_form_that_was_opened_before_the_task_ran_does_not_overwrite_it(client, article):
    opened = {"title": article.title, "body": EDITED, "version": article.version}
    expand_abbreviations.apply([str(article.pk)])

    page = words(client.post(f"/articles/{article.pk}/", opened))
    assert "The article was changed after you opened this form" in page
    assert EDITED in page  # what was typed
    assert "for your information: My Corporation needs this." in page  # what is there now
    assert Article.objects.get(pk=article.pk).body == "for your information: My Corporation needs this."


def test_who_has_seen_the_change_may_save_over_it(client, article):
    opened = {"title": article.title, "body": EDITED, "version": article.version}
    expand_abbreviations.apply([str(article.pk)])

    page = words(client.post(f"/articles/{article.pk}/", opened))
    assert '<input type="hidden" name="version" value="2"' in page
    client.post(f"/articles/{article.pk}/", {**opened, "version": 2})
    assert Article.objects.get(pk=article.pk).body == EDITED


def test_the_texts_are_asked_for_until_both_tasks_have_ended(client, article, queued):
    page = words(client.post(f"/articles/{article.pk}/start/", follow=True))
    assert f'hx-get="/articles/{article.pk}/texts/"' in page

    first, second = (task_id for task_id, _ in queued().values())
    current_app.backend.store_result(first, "…", states.SUCCESS)
    assert client.get(f"/articles/{article.pk}/texts/").status_code == 204

    current_app.backend.store_result(second, "…", states.SUCCESS)
    texts = client.get(f"/articles/{article.pk}/texts/")
    assert texts.status_code == 200
    assert "Nothing was lost this time." in words(texts)
    assert "hx-get" not in words(texts)


def test_an_article_outlives_the_record_of_its_tasks(client, article, queued):
    client.post(f"/articles/{article.pk}/start/")
    TrackedTask.objects.all().delete()  # as the platform does when results expire
    response = client.get(f"/articles/{article.pk}/")

    assert response.status_code == 200
    assert "hx-get" not in words(response)


@pytest.mark.parametrize("away", [["broker_away"], ["broker_away", "results_away"]], ids=" and ".join)
def test_while_the_broker_is_away_the_page_says_so_and_shows_no_task_that_never_comes(client, article, away, request):
    for fixture in away:
        request.getfixturevalue(fixture)
    started = client.post(f"/articles/{article.pk}/start/", follow=True)
    assert "The queue cannot be reached just now" in words(started)
    assert 'class="task' not in words(started)

    for way in ("inside", "on_commit"):
        committed = client.post("/articles/commit/", {"way": way}, follow=True)
        assert "The queue cannot be reached just now" in words(committed)
        assert 'class="task' not in words(committed)


def test_too_many_posts_get_429_and_lose_no_input(client, article, settings, queued):
    settings.DEMO_POSTS_PER_MINUTE = 1
    client.post("/articles/", FORM)
    new = client.post("/articles/", {**FORM, "body": "One more thing."})
    others = [client.post(f"/articles/{article.pk}/start/"), client.post("/articles/commit/", {"way": "inside"})]

    assert "One more thing." in words(new)
    for response in (new, *others):
        assert response.status_code == 429
        assert 0 < int(response["Retry-After"]) <= 60
        assert "That is a lot for one minute." in words(response)
    assert queued() == {}


def test_a_way_that_is_not_on_the_page_is_not_found(client):
    assert client.post("/articles/commit/", {"way": "never"}).status_code == 404


def test_markup_in_an_article_is_only_text(client):
    page = client.post("/articles/", {**FORM, "body": "<script>alert(1)</script>"}, follow=True).content.decode()

    assert "<script>alert(1)" not in page
    assert "&lt;script&gt;alert(1)" in page
