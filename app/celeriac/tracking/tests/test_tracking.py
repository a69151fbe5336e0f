"""Whoever started a task can watch it, and nobody else."""

import pytest
from celery import current_app, states
from django.contrib.auth import get_user_model
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.template import Context, Template
from django.test import Client

from celeriac.models import TrackedTask
from celeriac.tracking import PROGRESS, Progress, track

pytestmark = pytest.mark.django_db


def ask_as(client):
    """A request with this client's session and user."""
    request = HttpRequest()
    request.session = client.session
    user = client.session.get("_auth_user_id")
    request.user = get_user_model().objects.get(pk=user) if user else AnonymousUser()
    return request


class Visitor(Client):
    task_id = ""


@pytest.fixture
def visitor():
    """A visitor who is not signed in, and the task they started."""
    client = Visitor()
    request = ask_as(client)
    client.task_id = track(request, "Thumbnail")
    request.session.save()
    client.cookies["sessionid"] = request.session.session_key
    return client


def store(client, state, result=None):
    current_app.backend.store_result(client.task_id, result, state)


def json_of(client, task_id):
    return client.get(f"/api/tasks/{task_id}/")


def test_its_owner_is_told_where_it_is(visitor):
    answer = json_of(visitor, visitor.task_id)

    assert answer.status_code == 200
    assert "no-store" in answer["Cache-Control"]
    assert answer.json() == {
        "id": visitor.task_id,
        "label": "Thumbnail",
        "state": "PENDING",
        "word": "queued",
        "ready": False,
        "progress": None,
        "result": None,
        "error": "",
    }


def test_nobody_else_learns_that_it_exists(visitor):
    foreign = json_of(Client(), visitor.task_id)
    unknown = json_of(Client(), "no-such-task")

    assert foreign.status_code == unknown.status_code == 404
    assert foreign.content == unknown.content
    assert Client().get(f"/tasks/{visitor.task_id}/status/").status_code == 404


def test_it_stays_theirs_when_they_sign_in(visitor, django_user_model):
    visitor.force_login(django_user_model.objects.create_user("mina"))

    assert json_of(visitor, visitor.task_id).status_code == 200


def test_a_users_task_is_theirs_in_every_browser(client, django_user_model):
    user = django_user_model.objects.create_user("mina")
    client.force_login(user)
    task_id = track(ask_as(client), "Report")
    other_browser, other_user = Client(), Client()
    other_browser.force_login(user)
    other_user.force_login(django_user_model.objects.create_user("noor"))

    assert json_of(other_browser, task_id).status_code == 200
    assert json_of(other_user, task_id).status_code == 404


def test_progress_is_counted_and_named(visitor):
    store(visitor, PROGRESS, {"done": 50, "total": 200, "note": "rows"})

    assert json_of(visitor, visitor.task_id).json()["progress"] == {
        "done": 50,
        "total": 200,
        "percent": 25,
        "note": "rows",
    }


def test_a_failure_says_what_but_shows_no_traceback(visitor):
    store(visitor, states.FAILURE, ValueError("no rows"))

    answer = json_of(visitor, visitor.task_id).json()
    assert (answer["word"], answer["error"], answer["ready"]) == ("failed", "ValueError: no rows", True)


def test_the_page_asks_on_until_the_end_and_is_told_only_news(visitor):
    store(visitor, PROGRESS, {"done": 1, "total": 2, "note": ""})
    page = visitor.get(f"/tasks/{visitor.task_id}/status/").content.decode()
    assert "every 1s [document.visibilityState=='visible']" in page
    assert visitor.get(f"/tasks/{visitor.task_id}/status/", {"seen": "PROGRESS-1-"}).status_code == 204

    store(visitor, states.SUCCESS, "<b>42</b>")
    page = visitor.get(f"/tasks/{visitor.task_id}/status/", {"seen": "PROGRESS-1-"}).content.decode()
    assert "&lt;b&gt;42&lt;/b&gt;" in page
    assert "hx-get" not in page


def test_the_template_tag_shows_it(visitor):
    html = Template("{% load tracking %}{% task_status id %}").render(Context({"id": visitor.task_id}))

    assert "Thumbnail" in html
    assert f'hx-get="/tasks/{visitor.task_id}/status/?seen=PENDING--"' in html


def test_a_task_that_was_cleared_away_is_no_error(visitor):
    TrackedTask.objects.all().delete()
    html = Template("{% load tracking %}{% task_status id %}").render(Context({"id": visitor.task_id}))

    assert "not kept any longer" in html


def test_while_results_are_away_the_answer_is_to_ask_again(visitor, monkeypatch):
    def away(*args):
        raise ConnectionError

    monkeypatch.setattr(current_app.backend, "get_task_meta", away)

    assert json_of(visitor, visitor.task_id).status_code == 503
    html = Template("{% load tracking %}{% task_status id %}").render(Context({"id": visitor.task_id}))
    assert "hx-get" in html


def test_progress_is_written_at_most_twice_a_second():
    class Task:
        reports: list = []

        def update_state(self, state, meta):
            self.reports.append((state, meta["done"]))

    progress = Progress(Task(), total=1000)
    for done in range(1000):
        progress.report(done)
    progress.report(1000, at_once=True)

    assert Task.reports == [(PROGRESS, 0), (PROGRESS, 1000)]


def test_an_id_may_be_given(client):
    request = ask_as(client)

    assert track(request, "Chord", task_id="given") == "given"
    assert track(request, "Chord", task_id="given") == "given"
    assert TrackedTask.objects.count() == 1


def test_progress_that_comes_after_the_end_changes_nothing(visitor):
    """A task that its hard time limit ends reports on for the moment until it is killed."""
    store(visitor, states.FAILURE, ValueError("too long"))
    store(visitor, PROGRESS, {"done": 5, "total": 9, "note": ""})

    assert json_of(visitor, visitor.task_id).json()["word"] == "failed"
