"""Time limits, observed in a real worker: the soft one is heard, the hard one kills, and the worker lives on."""

import asyncio
import json

from django.conf import settings as django_settings
from django_celery_results.models import TaskResult

from demos.notifications.tasks import polite, send_campaign, stubborn
from demos.notifications.tests.conftest import FIVE
from tests.waiting import eventually


def ended(result):
    return TaskResult.objects.filter(task_id=result.id, status__in=["SUCCESS", "FAILURE"]).first()


def test_the_hard_limit_kills_and_is_reported_and_the_worker_goes_on(broker, start_worker, sign_in, client):
    worker = start_worker("-c", "1")
    (child,) = worker.children()

    killed = broker.send(stubborn, 60, soft_time_limit=3, time_limit=8)
    row = eventually(lambda: ended(killed))
    assert row.status == "FAILURE"
    assert json.loads(row.result)["exc_type"] == "TimeLimitExceeded"

    # It heard of the soft limit first, and went on; its child is gone, and the task is not run again.
    heard = broker.send(polite, 60, soft_time_limit=5, time_limit=60)
    assert eventually(lambda: ended(heard)).status == "SUCCESS"
    assert json.loads(ended(heard).result).startswith("Told to stop after")
    assert "Soft time limit (3s) exceeded for demos.notifications.tasks.stubborn" in worker.log.read_text()
    assert child not in worker.children()
    assert worker.process.poll() is None
    started = [line for line in worker.log.read_text().splitlines() if "task_started" in line and killed.id in line]
    assert len(started) == 1
    eventually(lambda: broker.command("HLEN", "unacked.default") + broker.command("LLEN", "default") == 0)

    sign_in("view_taskresult")
    page = client.get("/admin/django_celery_results/taskresult/", {"status": "FAILURE"}).content.decode()
    assert killed.id in page
    assert (
        "TimeLimitExceeded" in client.get(f"/admin/django_celery_results/taskresult/{row.pk}/change/").content.decode()
    )


def test_at_the_soft_limit_a_campaign_records_what_is_sent_and_goes_on_with_the_rest(
    app, start_worker, campaign, mail_server, monkeypatch
):
    async def slowly(server, session, envelope):
        """Take the mail at once, and say so late: the limit comes in between."""
        mail_server.mails.append(envelope)
        await asyncio.sleep(2)
        return "250 OK"

    monkeypatch.setattr(mail_server, "handle_DATA", slowly)
    worker = start_worker("-c", "1", EMAIL_URL=f"smtp://127.0.0.1:{django_settings.EMAIL_PORT}")

    result = send_campaign.apply_async([str(campaign.pk)], soft_time_limit=3, time_limit=60)
    row = eventually(lambda: ended(result), 120)
    assert (row.status, json.loads(row.result)) == ("SUCCESS", "5 of 5 sent.")
    assert mail_server.reached() == FIVE
    assert "Soft time limit (3s) exceeded" in worker.log.read_text()
