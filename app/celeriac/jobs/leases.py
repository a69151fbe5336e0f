"""A worker's signs of life: for the jobs it runs, in Postgres, and for the messages it holds, in Redis.

From a thread of the worker's main process, so that neither a long task nor a loop that waits looks like death.
With them the visibility timeout is half a minute, and a message whose worker died comes back after that and
not after an hour; a task may take as long as it likes.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from celery import bootsteps, signals
from celery.worker import state
from celery.worker.consumer import Consumer
from django.db import connection

from celeriac import transport
from celeriac.jobs import execution
from celeriac.jobs.execution import LEASE, RENEW
from celeriac.worker.prefork import id_of, is_durable

logger = logging.getLogger(__name__)

RENEWED = """
UPDATE celeriac_job SET lease_until = now() + %s * interval '1 second'
WHERE id = ANY(%s) AND worker = %s AND state IN ('running', 'returned')"""


class Leases(bootsteps.StartStopStep):
    """Consumer bootstep: the thread that renews, from the first connection to the worker's end.

    Also while Redis is away: what runs goes on, and its job must not be given to another worker.
    """

    requires = {"celery.worker.consumer.tasks:Tasks"}
    released = False

    def __init__(self, consumer: Consumer, **kwargs: Any) -> None:
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.renew, args=[consumer], daemon=True, name="leases")

    def start(self, consumer: Consumer) -> None:
        if not Leases.released:
            Leases.released = True
            quietly(execution.crashed_worker, consumer.hostname)  # of the worker of this name that was killed
        if not self.thread.ident:
            self.thread.start()

    def stop(self, consumer: Consumer) -> None:
        if consumer.blueprint.state != bootsteps.RUN:  # and not because a connection was lost
            self.stopping.set()

    def renew(self, consumer: Consumer) -> None:
        try:
            while not self.stopping.wait(RENEW):
                for renew in (renew_jobs, renew_messages):
                    try:
                        renew(consumer)
                    except Exception as error:  # away: the leases run out, and others take over
                        logger.warning("leases are not renewed: %s", " ".join(str(error).split()))
                        connection.close()
        finally:
            connection.close()


def renew_jobs(consumer: Consumer) -> None:
    ids = [request.id for request in list(state.active_requests)]
    for batch in list(getattr(consumer, "batches", ())):  # it may be long until one is settled: without Redis, say
        ids += map(id_of, filter(is_durable, batch.messages))
    if ids:
        with connection.cursor() as cursor:
            cursor.execute(RENEWED, [LEASE, ids, consumer.hostname])


def renew_messages(consumer: Consumer) -> None:
    """Count the visibility timeout of unacknowledged messages from now."""
    channel = consumer.task_consumer and consumer.task_consumer.channel
    if channel is None:  # between two connections; the next one takes over what it held
        return
    if isinstance(channel, transport.Channel):
        channel.renew()
    elif tags := list(channel.qos._delivered):
        with channel.conn_or_acquire() as client:
            client.zadd(channel.unacked_index_key, dict.fromkeys(tags, time.time()), xx=True)


def quietly(function: Callable[[str], object], worker: str) -> None:
    """What cannot be given back now waits for the lease's end."""
    try:
        function(worker)
    except Exception as error:
        logger.warning("jobs are not given back: %s", error)
    finally:
        connection.close()


@signals.worker_shutdown.connect
def on_shutdown(sender: Any, **kwargs: Any) -> None:
    quietly(execution.give_back, getattr(sender, "hostname", "") or "")
