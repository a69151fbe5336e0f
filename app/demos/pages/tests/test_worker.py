"""The chord, run by a real worker on a real broker, over pages of a real server."""

import json

import pytest
from celery.result import AsyncResult
from celery.utils import uuid

from demos.pages.models import Batch, Body, Page
from demos.pages.tasks import read_pages
from tests.waiting import eventually


@pytest.fixture
def send(broker, send_to):
    """Send a batch of these URLs as the page does, to the broker of this test."""
    send_to(broker.url)

    def send(*urls):
        batch = Batch.objects.create(task_id=uuid())
        Page.objects.bulk_create(Page(batch=batch, url=url) for url in urls)
        read_pages(batch).apply_async(task_id=batch.task_id)
        return batch

    return send


def rows(batch):
    return {page.url.rpartition("/")[2]: (page.state, page.attempts) for page in batch.pages.all()}


def test_every_page_gets_a_row_and_every_batch_a_summary(start_worker, send, site):
    only_once = {"demos.pages.tasks.parse_page": {"max_retries": 0}}  # or the killed one is tried for a minute
    start_worker(
        "-c",
        "2",
        PAGES_ALLOWED_ADDRESSES=site.address,
        CELERY_IMPORTS='["demos.pages.tests.killed_by_a_page"]',
        CELERY_TASK_ANNOTATIONS=json.dumps(only_once),
    )
    for path in ("/good", "/flaky"):
        site.page(path, b"<title>Bees</title><p>Bees dance")
    site.fails_first("/flaky", 1)
    site.redirect("/inside", "http://127.0.0.1:1/")

    one, many = send(site.url("/good")), send(*map(site.url, ("/good", "/flaky", "/missing", "/inside")))
    eventually(lambda: all(AsyncResult(batch.task_id).ready() for batch in (one, many)))
    assert rows(one) == {"good": ("done", 1)}
    assert rows(many) == {"good": ("done", 1), "flaky": ("done", 2), "missing": ("failed", 1), "inside": ("failed", 1)}
    assert AsyncResult(one.task_id).result == "1 of 1 read, 0 failed: 2 words and 0 links in 32\xa0bytes."
    assert AsyncResult(many.task_id).result == "2 of 4 read, 2 failed: 4 words and 0 links in 64\xa0bytes."

    # A killed process is the one thing that does fail a member of the chord.
    site.page("/kill", b"<title>kill</title>")
    killed = send(*map(site.url, ("/good", "/kill")))
    eventually(lambda: Batch.objects.get(pk=killed.pk).summary)
    assert rows(killed) == {"good": ("done", 1), "kill": ("failed", 1)}
    assert Batch.objects.get(pk=killed.pk).summary.startswith("1 of 2 read, 1 failed")
    assert not Body.objects.exists()
