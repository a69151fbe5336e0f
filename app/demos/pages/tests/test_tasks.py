"""The steps of the chain, each run here and now: what they leave in the row, also when they run twice."""

import zlib

import pytest
from celery.exceptions import SoftTimeLimitExceeded

from demos.pages import fetch as fetching
from demos.pages import tasks
from demos.pages.models import Batch, Body, Page
from demos.pages.tasks import ATTEMPTS, fetch_page, give_up, parse_page, store_page_info, summarise


def run(page):
    """The chain, as a worker runs it; retries follow without their pauses."""
    body = fetch_page.apply([page.pk]).get()
    store_page_info.apply([parse_page.apply([body]).get(), page.pk]).get()
    page.refresh_from_db()
    return page


def test_a_page_becomes_a_row(page, site):
    site.redirect("/old", "/")
    Page.objects.update(url=site.url("/old"))
    run(page)

    assert (page.state, page.status, page.attempts, page.error) == ("done", 200, 1, "")
    assert (page.final_url, page.title, page.description) == (site.url(), "Bees", "All about them.")
    assert (page.words, page.links, page.bytes) == (3, 1, 108)
    assert page.fetched_at


def test_the_body_is_handed_on_as_an_id_and_is_gone_in_the_end(page, site):
    site.page("/", b"<p>" + b"bee " * 100_000)
    handed_on = fetch_page.apply([page.pk]).get()
    assert handed_on == page.pk
    assert len(Body.objects.get().packed) < 10_000

    store_page_info.apply([parse_page.apply([handed_on]).get(), page.pk]).get()
    assert not Body.objects.exists()
    assert Page.objects.get().words == 100_000


def test_a_server_that_recovers_is_tried_again(page, site):
    site.fails_first("/", 2)
    run(page)

    assert (page.state, page.attempts, page.error) == ("done", 3, "")


def test_a_server_that_does_not_is_left_after_four_attempts(page, site):
    site.page("/", status=503)
    run(page)

    assert (page.state, page.attempts, page.status) == ("failed", ATTEMPTS, 503)
    assert page.error == "The server answered 503 Service Unavailable."
    assert len(site.requests) == ATTEMPTS


def test_what_cannot_get_better_fails_at_once_without_failing_the_task(page, site):
    site.page("/", status=404)

    assert fetch_page.apply([page.pk]).state == "SUCCESS"
    page.refresh_from_db()
    assert (page.state, page.attempts, page.error) == ("failed", 1, "The server answered 404 Not Found.")


def test_the_pauses_between_attempts_grow_and_are_random(page, site, monkeypatch):
    site.page("/", status=503)
    pauses = []

    def retry(countdown, **options):
        pauses.append(countdown)
        return SystemExit()

    monkeypatch.setattr(fetch_page, "retry", retry)
    for attempt in range(60):
        Page.objects.update(attempts=attempt % 3)
        with pytest.raises(SystemExit):
            fetch_page.run(page.pk)

    assert [max(pauses[first::3]) <= 2 ** (first + 2) for first in range(3)] == [True] * 3
    assert len(set(pauses[2::3])) > 3


def test_a_name_server_that_hangs_is_ended_by_the_soft_time_limit_and_tried_again(page, site, monkeypatch):
    fetch = fetching.fetch
    waits = iter([SoftTimeLimitExceeded()])

    def hangs_once(url):
        for wait in waits:
            raise wait
        return fetch(url)

    monkeypatch.setattr(fetching, "fetch", hangs_once)

    assert run(page).attempts == 2
    assert page.state == "done"


def test_html_that_takes_too_long_is_a_result_too(page, monkeypatch):
    def tangled(body, charset):
        raise SoftTimeLimitExceeded

    monkeypatch.setattr(tasks, "read_html", tangled)
    run(page)

    assert (page.state, page.error) == ("failed", "Its HTML took too long to read.")
    assert not Body.objects.exists()


def test_messages_that_come_twice_change_nothing(page, site):
    body = fetch_page.apply([page.pk]).get()
    info = parse_page.apply([body]).get()
    run(page)
    assert len(site.requests) == 2  # not ended yet: fetched again, and nothing is lost

    again = run(page)
    store_page_info.apply([{**info, "title": "late"}, page.pk]).get()
    again.refresh_from_db()
    assert (again.title, again.attempts, again.state) == ("Bees", 2, "done")
    assert len(site.requests) == 2


@pytest.mark.django_db
@pytest.mark.parametrize("step", [fetch_page, give_up, summarise])
def test_a_batch_deleted_in_the_meantime_is_no_error(step):
    assert step.apply([12345]).get() is None


def test_a_page_that_a_worker_failed_at_says_so_and_a_page_that_ended_stays(page):
    Body.objects.create(page=page, packed=zlib.compress(b""))
    give_up.apply([page.pk]).get()
    page.refresh_from_db()
    assert page.state == "failed"
    assert page.error.startswith("Our worker failed at this page")
    assert not Body.objects.exists()

    Page.objects.update(state=Page.State.DONE)
    give_up.apply([page.pk]).get()
    assert Page.objects.get().state == "done"


def test_the_summary_counts_the_rows(page):
    Page.objects.update(state="done", words=1234, links=2, bytes=2048)
    Page.objects.create(batch=page.batch, url="http://a.example/", state="failed")

    text = "1 of 2 read, 1 failed: 1,234 words and 2 links in 2.0\xa0KB."
    assert summarise.apply([page.batch_id]).get() == text
    assert Batch.objects.get().summary == text


def test_the_summary_waits_for_the_last_row_without_holding_a_worker(page, monkeypatch):
    def retry(countdown, **options):
        return RuntimeError("retried")

    monkeypatch.setattr(summarise, "retry", retry)

    with pytest.raises(RuntimeError, match="retried"):
        summarise.run(page.batch_id)
    assert Batch.objects.get().summary == ""
