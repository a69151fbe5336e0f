"""Fetch, parse and store: a chain for each page, and a chord over all of them. No task waits for another.

Celery's documentation warns of the task that calls ``fetch_page.delay(url).get()``: it holds its worker process
while it waits for a process to be free. tests/test_deadlock.py shows how that ends.
"""

import zlib
from typing import TYPE_CHECKING, Any

from celery import Task, chain, chord, shared_task
from celery.canvas import Signature
from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.time import get_exponential_backoff_interval
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import F
from django.utils import timezone

from demos.pages.errors import PageError, PassingError
from demos.pages.models import Batch, Body, Page, summary_of
from demos.pages.parse import read_html

if TYPE_CHECKING:
    from demos.pages.fetch import Fetched

ATTEMPTS = 4  # at one page, some seconds apart

#: Of every step: a database that is away comes back, and a process that was killed left its step undone.
PATIENT: dict[str, Any] = {
    "autoretry_for": (OperationalError, InterfaceError),
    "max_retries": 8,
    "retry_backoff": 2,
    "retry_backoff_max": 60,
    "retry_jitter": True,
    "default_retry_delay": 5,
}


def read_pages(batch: Batch) -> Signature:
    """All pages side by side, and the summary when the last of them has ended; the same for one and for many."""
    # A chord runs its body only when every member succeeds. That a page cannot be had is therefore no failure
    # of its task, but a state of its row; what remains are killed processes and bugs, and those end in
    # `give_up` for the page and in the same summary, as its own errback.
    summary = summarise.si(batch.pk).on_error(summarise.si(batch.pk))
    return chord([read_page(pk) for pk in batch.pages.values_list("pk", flat=True)], summary)


def read_page(page_id: int) -> Signature:
    steps = (fetch_page.s(page_id), parse_page.s(), store_page_info.s(page_id))
    return chain(*(step.on_error(give_up.si(page_id)) for step in steps))


@shared_task(bind=True, soft_time_limit=30, time_limit=45, **PATIENT)
def fetch_page(self: Task, page_id: int) -> int | None:
    """Keep the page's body and hand on its id: a broker is for messages, not for megabytes of HTML."""
    from demos.pages.fetch import fetch  # with httpx, which workers without pages to fetch need not hold in memory

    page = Page.objects.filter(pk=page_id).exclude(state__in=Page.ENDED)
    # A queue delivers at least once: ended or deleted already, nothing is left to do.
    if not page.update(state=Page.State.FETCHING, attempts=F("attempts") + 1):
        return None
    attempts, url = page.values_list("attempts", "url").get()
    problem: PageError
    try:
        return keep(page_id, fetch(url))
    except SoftTimeLimitExceeded:  # getaddrinfo has no timeout
        problem = PassingError("Looking up its address took too long.")
    except PageError as error:
        problem = error
    if not isinstance(problem, PassingError) or attempts >= ATTEMPTS:
        fail(page_id, str(problem), problem.status)
        return None
    page.update(state=Page.State.RETRYING, error=str(problem), status=problem.status)
    # Its jitter keeps twenty pages of one busy server from coming back all at once.
    pause = get_exponential_backoff_interval(factor=2, retries=attempts, maximum=60, full_jitter=True)
    raise self.retry(exc=problem, countdown=pause)


@shared_task(soft_time_limit=20, time_limit=30, **PATIENT)
def parse_page(page_id: int | None) -> dict[str, Any] | None:
    body = Body.objects.filter(pk=page_id).first()
    if not body:
        return None
    try:
        return read_html(zlib.decompress(body.packed), body.charset)
    except SoftTimeLimitExceeded:
        fail(body.pk, "Its HTML took too long to read.")
        return None


@shared_task(**PATIENT)
def store_page_info(info: dict[str, Any] | None, page_id: int) -> None:
    with transaction.atomic():
        if info:
            parsed = Page.objects.filter(pk=page_id, state=Page.State.PARSING)
            parsed.update(**info, state=Page.State.DONE, error="")
        Body.objects.filter(pk=page_id).delete()


@shared_task(bind=True, **PATIENT)
def summarise(self: Task, batch_id: int) -> str | None:
    """Counts the rows, not what the chord hands over: they are right even after a message came twice."""
    batch = Batch.objects.filter(pk=batch_id).first()
    if not batch:
        return None
    pages = list(batch.pages.all())
    if not all(page.ended for page in pages):  # `give_up` is on its way; this worker has other things to do
        raise self.retry(countdown=1)
    batch.summary = summary_of(pages)
    batch.save(update_fields=["summary"])
    return batch.summary


@shared_task(**PATIENT)
def give_up(page_id: int) -> None:
    """What the chain of a page ends with when a step was killed again and again, or has a bug."""
    fail(page_id, "Our worker failed at this page; the task's result in the admin says why.")


def keep(page_id: int, fetched: "Fetched") -> int | None:
    # Compressed in a row and not in a file: the next step may run on another machine.
    with transaction.atomic():
        if not Page.objects.filter(pk=page_id, state=Page.State.FETCHING).update(
            state=Page.State.PARSING,
            error="",
            final_url=fetched.url,
            status=fetched.status,
            bytes=len(fetched.body),
            fetched_at=timezone.now(),
        ):
            return None
        body = {"packed": zlib.compress(fetched.body), "charset": fetched.charset}
        Body.objects.update_or_create(page_id=page_id, defaults=body)
    return page_id


def fail(page_id: int, sentence: str, status: int | None = None) -> None:
    page = Page.objects.filter(pk=page_id).exclude(state__in=Page.ENDED)
    page.update(state=Page.State.FAILED, error=sentence, status=status)
    Body.objects.filter(pk=page_id).delete()
