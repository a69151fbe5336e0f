"""A task that waits for a task holds the process the other one needs; a chain needs one process, ever.

https://docs.celeryq.dev/en/stable/userguide/tasks.html#avoid-launching-synchronous-subtasks
"""

import time

from celery import chain
from celery.result import AsyncResult

from demos.pages.tests import bad_tasks
from tests.waiting import eventually


def ended(result):
    return eventually(AsyncResult(result.id).ready) and AsyncResult(result.id)


def test_with_one_process_the_waiting_task_never_ends_and_the_chain_does(broker, start_worker, notes):
    start_worker("-c", "1", CELERY_IMPORTS='["demos.pages.tests.bad_tasks"]')

    bad = broker.send(bad_tasks.update_page_info, notes.path)
    eventually(lambda: notes() == ["began"])
    time.sleep(3)  # a hundred times what the work takes
    assert notes() == ["began"]
    waiting, running = broker.command("LLEN", "default"), broker.command("HLEN", "unacked.default")
    assert waiting + running == 2, "it, and what it waits for"

    assert "SoftTimeLimitExceeded" in repr(ended(bad).result)  # only the time limit breaks it up
    eventually(lambda: notes() == ["began", "fetched"])  # for nobody

    refused = broker.send(bad_tasks.update_page_info, notes.path, False)
    assert "Never call result.get() within a task!" in str(ended(refused).result)
    eventually(lambda: notes() == ["began", "fetched", "began", "fetched"])

    with broker.connection() as connection:
        good = chain(bad_tasks.fetch.s(notes.path), bad_tasks.parse.s(notes.path))
        assert ended(good.apply_async(connection=connection)).result == "<title>Bees</title>"
    assert notes()[-2:] == ["fetched", "parsed"]
