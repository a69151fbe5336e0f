"""What a visitor meets: the form and its mistakes, what was started, and whose it is."""

import html
import re
from datetime import timedelta

import pytest
from celery import current_app, states
from celery.backends.redis import RedisBackend
from django.test import Client
from django.utils import timezone

from celeriac.models import TrackedTask
from demos.widgets.models import Widget
from demos.widgets.tests.conftest import Visitor


def error_at(response, field):
    """What the page says at this field, which has to be marked and named."""
    page = html.unescape(response.content.decode())
    (tag,) = re.findall(rf'<(?:input|textarea|select)[^>]* id="{field}"[^>]*>', page)
    assert 'aria-invalid="true"' in tag
    assert re.search(rf'aria-describedby="[^"]*\b{field}_error"', tag)
    assert "<title>Error: " in page
    (said,) = re.findall(rf'<ul class="errorlist" id="{field}_error"><li>(.*?)</li></ul>', page)
    return said


def soon(**delta):
    return (timezone.now() + timedelta(**delta)).strftime("%Y-%m-%dT%H:%M:%S")


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("fields", "at", "error"),
    [
        ({"numbers": "2 x"}, "numbers", "“x” is not a whole number. Write numbers like: 2 3"),
        ({"numbers": "2 1.5"}, "numbers", "“1.5” is not a whole number. Write numbers like: 2 3"),
        ({"numbers": ""}, "numbers", "Write one line of numbers: delay starts one task."),
        ({"numbers": "1 2\n3 4"}, "numbers", "Write one line of numbers: delay starts one task."),
        ({"numbers": "1 2 3"}, "numbers", "Write two numbers on each line: add takes two."),
        ({"numbers": "2 1000000001"}, "numbers", "“1000000001” is too large. Write numbers up to 1000000000."),
        ({"numbers": "9" * 5000 + " 1"}, "numbers", f"“{'9' * 20}” is not a whole number. Write numbers like: 2 3"),
        ({"numbers": "1 " * 21, "task": "xsum"}, "numbers", "Write at most 20 numbers on a line."),
        ({"way": "group"}, "numbers", "Write 2 to 10 lines: each is a task of the group."),
        (
            {"way": "chord", "numbers": "1 2\n" * 5000},
            "numbers",
            "These are 5000 lines, and each would be a task. Write at most 10.",
        ),
        (
            {"way": "chain", "numbers": "1 2\n3 4"},
            "numbers",
            "Write two numbers on the first line, and one on each that follows.",
        ),
        (
            {"way": "chain", "task": "xsum", "numbers": "1\n2"},
            "task",
            "A chain hands one number on, and xsum wants a list. Choose add or mul.",
        ),
        (
            {"way": "group", "task": "count_widgets"},
            "task",
            "A group here is made of numbers. Choose add, mul or xsum.",
        ),
        ({"task": "limited"}, "task", "Choose one of the tasks in the list."),
        ({"way": "send_task"}, "way", "Choose one of the ways in the list."),
        ({"task": "rename_widget", "name": "x"}, "widget", "Choose the widget to rename."),
        ({"task": "rename_widget", "name": ""}, "name", "Write its new name."),
        ({"task": "rename_widget", "name": "x" * 101}, "name", "Shorten this to 100 characters; it has 101."),
        ({"countdown": "1"}, "countdown", "Only apply_async takes this. Choose it above, or leave this empty."),
        ({"countdown": "0"}, "countdown", "Only apply_async takes this. Choose it above, or leave this empty."),
        ({"way": "apply_async", "countdown": "-1"}, "countdown", "Write whole seconds, from 0 to 1800."),
        ({"way": "apply_async", "countdown": "1801"}, "countdown", "Write whole seconds, from 0 to 1800."),
        ({"way": "apply_async", "expires": "0"}, "expires", "Write whole seconds, from 1 to 1800."),
        ({"way": "apply_async", "expires": "soon"}, "expires", "Write whole seconds, from 1 to 1800."),
        ({"way": "apply_async", "eta": "soon"}, "eta", "Write a date and a time, like 2030-12-31T08:00:00."),
        (
            {"way": "apply_async", "eta": "2020-01-01T08:00"},
            "eta",
            r"That is past: it is .* UTC\. Write a later time\.",
        ),
        (
            {"way": "apply_async", "eta": "9999-12-31T23:59"},
            "eta",
            r"That is too far away\. Write a time before .* UTC\.",
        ),
        (
            {"way": "apply_async", "eta": "in five minutes", "countdown": "1"},
            "eta",
            "Give a countdown or an eta, not both.",
        ),
        ({"way": "apply_async", "queue": "nobody"}, "queue", "Choose one of the queues in the list."),
        ({"way": "apply_async", "priority": "10"}, "priority", "Write a whole number from 0 to 9."),
        ({"way": "apply_async", "priority": "-1"}, "priority", "Write a whole number from 0 to 9."),
    ],
    ids=lambda value: "-".join(f"{key}={text[:12]}" for key, text in value.items()) if isinstance(value, dict) else "",
)
def test_a_mistake_is_named_at_its_field_and_starts_nothing(visitor, fields, at, error):
    if fields.get("eta") == "in five minutes":  # of now, and not of the start of the run
        fields = {**fields, "eta": soon(minutes=5)}
    said = error_at(visitor.post(**fields), f"id_{at}")

    assert said == error or re.fullmatch(error, said)
    assert not TrackedTask.objects.exists()


@pytest.mark.django_db
def test_what_was_written_is_kept_beside_a_mistake(visitor):
    page = visitor.post(way="chord", numbers="7 8\nnine", countdown="5").content.decode()

    assert "7 8\nnine</textarea>" in page
    assert '<option value="chord" selected>' in page
    assert re.search(r'<input[^>]* name="countdown"[^>]* value="5"|<input[^>]* value="5"[^>]* name="countdown"', page)


@pytest.mark.django_db
def test_every_field_has_a_label(client):
    page = client.get("/widgets/").content.decode()

    fields = re.findall(r'<(?:input type="(?!hidden)|textarea|select)[^>]* id="([^"]+)"', page)
    assert len(fields) == 12
    assert all(f'<label for="{field}">' in page for field in fields)


@pytest.mark.django_db(transaction=True)
def test_the_id_and_the_state_are_there_at_once(visitor):
    (task_id,) = visitor.start()

    assert visitor.told(task_id)["state"] == "PENDING"
    page = html.unescape(visitor.page())
    assert "<code>add.delay(2, 3)</code>" in page
    assert f"<code>{task_id}</code>" in page
    assert f'hx-get="/tasks/{task_id}/status/?seen=PENDING--"' in page


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"way": "apply_async", "countdown": "5", "priority": "0"}, "add.apply_async([2, 3], countdown=5, priority=0)"),
        ({"way": "ignore_result"}, "add.apply_async([2, 3], ignore_result=True)"),
        ({"way": "group", "numbers": "1 2\n3 4"}, "group(add.s(1, 2), add.s(3, 4))()"),
        ({"way": "chord", "task": "mul", "numbers": "1, 2\r\n3, 4"}, "chord([mul.s(1, 2), mul.s(3, 4)])(xsum.s())"),
        ({"way": "chain", "numbers": "1 2\n\n3"}, "chain(add.s(1, 2), add.s(3))()"),
        ({"task": "xsum", "numbers": "1 2 3"}, "xsum.delay([1, 2, 3])"),
        ({"task": "count_widgets"}, "count_widgets.delay()"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_page_shows_the_line_of_python_that_was_run(visitor, fields, code):
    visitor.start(**fields)

    assert f"<code>{code}</code>" in html.unescape(visitor.page())


@pytest.mark.django_db(transaction=True)
def test_only_who_started_a_task_sees_it(visitor):
    (task_id,) = visitor.press("debug")
    other = Visitor(Client())

    assert task_id not in other.page()
    assert other.client.get(f"/widgets/answers/{task_id}/").status_code == 404
    unknown, foreign = (other.client.get("/widgets/", {"id": each}) for each in ("no-such-id", task_id))
    assert error_at(foreign, "lookup_id") == error_at(unknown, "lookup_id")
    assert "There is no such task, or it is not yours." in error_at(foreign, "lookup_id")


@pytest.mark.django_db
@pytest.mark.parametrize("task_id", ["", " ", "x" * 256, "\x00"])
def test_what_is_no_id_gets_an_error_at_the_field(client, task_id):
    assert error_at(client.get("/widgets/", {"id": task_id}), "lookup_id")


@pytest.mark.django_db(transaction=True)
def test_a_task_is_found_again_by_its_id(visitor):
    (task_id,) = visitor.start()
    assert '<th scope="row">state</th><td>PENDING</td>' in visitor.page(id=task_id)

    current_app.backend.store_result(task_id, 5, states.SUCCESS)
    page = visitor.page(id=task_id)
    assert '<th scope="row">state</th><td>SUCCESS</td>' in page
    assert '<th scope="row">result</th><td>5</td>' in page


@pytest.mark.django_db(transaction=True)
def test_a_failed_task_found_by_its_id_says_why_without_a_traceback(visitor):
    (task_id,) = visitor.start()
    current_app.backend.store_result(task_id, ValueError("<no>"), states.FAILURE, traceback="Traceback: secret")

    page = visitor.page(id=task_id)
    assert "<td>ValueError: &lt;no&gt;</td>" in page
    assert "secret" not in page


@pytest.mark.django_db(transaction=True)
def test_while_results_are_away_the_page_works_and_says_so(visitor, monkeypatch):
    (task_id,) = visitor.press("debug")
    away = RedisBackend(app=current_app, url="redis://127.0.0.1:1/0")
    away.always_retry = False
    monkeypatch.setattr(current_app, "_backend_cache", away)

    assert f'hx-get="/widgets/answers/{task_id}/' in visitor.page()
    said = error_at(visitor.client.get("/widgets/", {"id": task_id}), "lookup_id")
    assert said == "Results cannot be read just now. Ask again in a moment."


@pytest.mark.django_db(transaction=True)
def test_a_table_is_asked_for_until_it_is_there(visitor):
    (task_id,) = visitor.press("debug")
    address = f"/widgets/answers/{task_id}/"
    assert visitor.client.get(address, {"seen": "PENDING--"}).status_code == 204

    current_app.backend.store_result(task_id, {"queue": "<default>"}, states.SUCCESS)
    news = visitor.client.get(address, {"seen": "PENDING--"}).content.decode()
    assert '<th scope="row">queue</th><td>&lt;default&gt;</td>' in news
    assert "hx-get" not in news


@pytest.mark.django_db(transaction=True)
def test_tasks_that_have_expired_leave_the_list(visitor):
    visitor.start()
    TrackedTask.objects.all().delete()

    assert "add.delay" not in visitor.page()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("broker_away")
@pytest.mark.parametrize("fields", [{}, {"way": "chord", "numbers": "1 2\n3 4"}, {"way": "apply_async"}])
def test_while_the_broker_is_away_nothing_written_is_lost(visitor, fields):
    response = visitor.post(**{"numbers": "12 34", **fields})

    page = response.content.decode()
    assert response.status_code == 503
    assert "The queue cannot be reached just now. What you wrote is kept" in page
    assert f"{fields.get('numbers', '12 34')}</textarea>" in page
    assert "widgets" not in visitor.client.session


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("address", ["call", "debug", "limited", "new"])
def test_too_many_posts_get_429(visitor, settings, address):
    settings.DEMO_POSTS_PER_MINUTE = 1
    visitor.press("debug")
    response = visitor.client.post(f"/widgets/{address}/", {**visitor.FORM, "name": "Kept"})

    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= 60
    assert "That is a lot for one minute." in response.content.decode()
    assert TrackedTask.objects.count() == 1
    assert not Widget.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("address", ["call", "debug", "limited", "new"])
def test_nothing_starts_without_a_post_of_this_site(client, address):
    assert client.get(f"/widgets/{address}/").status_code == 302
    assert Client(enforce_csrf_checks=True).post(f"/widgets/{address}/").status_code == 403


@pytest.mark.django_db
def test_a_widget_is_its_makers_alone(visitor):
    visitor.client.post("/widgets/new/", {"name": "<b>Mine</b>"})
    other = Visitor(Client())

    assert "<li>&lt;b&gt;Mine&lt;/b&gt;</li>" in visitor.page()
    assert "Mine" not in other.page()
    response = other.post(task="rename_widget", widget=Widget.objects.get().pk, name="Stolen")
    assert error_at(response, "id_widget") == "Choose one of your own widgets."


@pytest.mark.django_db
@pytest.mark.parametrize("name", ["", "x" * 101])
def test_a_widget_needs_a_name_of_bounded_length(visitor, name):
    assert error_at(visitor.client.post("/widgets/new/", {"name": name}), "widget_name")
    assert not Widget.objects.exists()


@pytest.mark.django_db
def test_nobody_fills_the_table(visitor):
    responses = [visitor.client.post("/widgets/new/", {"name": "one more"}) for _ in range(11)]

    assert Widget.objects.count() == 10
    assert error_at(responses[-1], "widget_name").startswith("You have 10 widgets")


@pytest.mark.django_db
def test_the_page_says_which_limit_holds_and_that_each_worker_has_its_own(client):
    page = client.get("/widgets/").content.decode()

    assert "The limit here is <strong>10/s</strong>. It is <strong>per worker</strong>" in page
