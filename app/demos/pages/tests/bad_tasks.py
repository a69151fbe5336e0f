"""How not to do it: a task that waits for another one. For test_deadlock.py alone."""

from celery import shared_task

from tests.tasks import note


@shared_task
def fetch(path: str) -> str:
    note(path, "fetched")
    return "<title>Bees</title>"


@shared_task
def parse(html: str, path: str) -> str:
    note(path, "parsed")
    return html


@shared_task(soft_time_limit=6)
def update_page_info(path: str, insist: bool = True) -> str:
    """Celery's documentation has it as its example of what to avoid."""
    note(path, "began")
    html = fetch.delay(path).get(disable_sync_subtasks=not insist)
    return parse.delay(html, path).get(disable_sync_subtasks=not insist)
