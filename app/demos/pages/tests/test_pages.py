"""What a visitor meets: the form, and the page on which they watch."""

import html
import re

import pytest
from django.test import Client

from celeriac.models import TrackedTask
from demos.pages.models import Batch, Page

pytestmark = pytest.mark.usefixtures("_no_posts_yet")


def post(client, *lines):
    return client.post("/pages/", {"addresses": "\n".join(lines)})


def text_of(response):
    return html.unescape(response.content.decode())


@pytest.fixture
def batch(client, db):
    """Of ``client``, with nothing in any queue."""
    post(client, "http://a.example/", "http://b.example/")
    return Batch.objects.get()


def test_every_different_address_becomes_a_row(client, django_capture_on_commit_callbacks):
    with django_capture_on_commit_callbacks() as callbacks:
        response = post(
            client, "", " http://a.example/ ", "http://b.example/?q=1#top", "HTTP://A.EXAMPLE", "http://a.example/#x"
        )

    batch = Batch.objects.get()
    assert response["Location"] == f"/pages/{batch.pk}/"
    assert [page.url for page in batch.pages.all()] == ["http://a.example/", "http://b.example/?q=1"]
    assert TrackedTask.objects.get(task_id=batch.task_id).label == "Summary of 2 pages"
    assert len(callbacks) == 1


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([""], "Write at least one address, like https://example.org."),
        (["  ", ""], "Write at least one address, like https://example.org."),
        (["http://a.example", "", "a.example"], "Line 3: Write a web address like https://example.org/page."),
        (["file:///etc/passwd"], "Line 1: Write a web address like"),
        (["http://"], "Line 1: Write a web address like"),
        (["http://[1/"], "Line 1: Write a web address like"),
        (["http://a.example:99999999/"], "Line 1: Write a web address like"),
        (["javascript:alert(1)"], "Line 1: Write a web address like"),
        (["https://me:secret@a.example"], "Line 1: Leave out the user name and the password"),
        (["http://a.example/" + "a" * 2000], "Line 1: Shorten it to 2000 characters."),
        ([f"http://{n}.example" for n in range(21)], "Send at most 20 different addresses at once; these are 21."),
        (["http://a.example/" + "a" * 60_000], "Shorten the list to 50000 characters"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_the_list_kept(client, db, lines, error):
    page = text_of(post(client, *lines))

    (tag,) = re.findall(r'<textarea[^>]* id="id_addresses"[^>]*>', page)
    assert 'aria-invalid="true"' in tag
    assert "autofocus" in tag
    assert re.search(rf'<ul class="errorlist" id="id_addresses_error"><li>{re.escape(error)}', page)
    assert all(line in page for line in lines)
    assert not Batch.objects.exists()


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("broker_away")
def test_while_the_queue_is_away_the_list_is_kept_and_no_batch_pretends_to_run(client):
    response = post(client, "http://a.example/")

    assert response.status_code == 503
    assert "The queue cannot be reached. Your list is kept" in text_of(response)
    assert "http://a.example/" in text_of(response)
    assert not Page.objects.exists()


def test_too_many_posts_get_429_and_lose_no_input(client, settings, batch):
    settings.DEMO_POSTS_PER_MINUTE = 1
    response = post(client, "http://c.example/")

    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= 60
    assert "http://c.example/" in text_of(response)
    assert Batch.objects.count() == 1


def test_a_post_from_another_site_is_refused(db):
    assert post(Client(enforce_csrf_checks=True), "http://a.example/").status_code == 403


def test_only_its_owner_sees_a_batch(client, batch):
    for path in (f"/pages/{batch.pk}/", f"/pages/{batch.pk}/rows/"):
        assert client.get(path).status_code == 200
        assert Client().get(path).status_code == 404
    assert "http://a.example/ and 1 more" in " ".join(text_of(client.get("/pages/")).split())
    assert "a.example" not in text_of(Client().get("/pages/"))


def test_the_rows_ask_on_while_something_can_change_and_are_told_only_news(client, batch):
    page = text_of(client.get(f"/pages/{batch.pk}/"))
    (path,) = re.findall(r'hx-get="(/pages/[^"]*)"', page)
    assert "every 1s [document.visibilityState=='visible']" in page
    assert f'hx-get="/tasks/{batch.task_id}/status/' in page
    assert client.get(path).status_code == 204

    batch.pages.filter(url="http://a.example/").update(state="retrying", attempts=1, error="It did not answer in time.")
    news = text_of(client.get(path))
    assert "0 of 2 read, 0 failed, 2 to go" in news
    assert "Attempt 1 did not get through." in news
    assert "hx-get" in news


def test_the_rows_stop_asking_at_the_end_and_say_what_was_found(client, batch):
    batch.pages.filter(url="http://a.example/").update(
        state="done",
        title="<b>Bees</b>",
        description="All",
        words=3,
        links=1,
        bytes=5,
        final_url="http://a.example/bees",
    )
    batch.pages.filter(url="http://b.example/").update(state="failed", error="The server answered 404 Not Found.")
    response = client.get(f"/pages/{batch.pk}/rows/")

    news = text_of(response)
    assert b"&lt;b&gt;Bees&lt;/b&gt;" in response.content
    assert "3 words, 1 link, 5\xa0bytes; redirected from http://a.example/" in news
    assert "The server answered 404 Not Found." in news
    assert "hx-get" not in news


def test_the_page_stays_out_of_caches(client, batch):
    assert "no-store" in client.get(f"/pages/{batch.pk}/")["Cache-Control"]
