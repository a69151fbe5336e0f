"""The consumer that survives its broker: a lost connection costs no worker, no running task, no message.

celery 5.7.0 closes a lost connection, kombu then restores its messages through a client that is gone, and
the worker dies (``celery/worker/consumer/consumer.py``, ``on_connection_error_after_connected``). Even where
that works, it puts running tasks back into the queue, to run twice, and their late acknowledgement is lost.
Here the unacknowledged messages are set aside before the close, and sorted out on the new connection.
"""

import logging
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer import Consumer as StockConsumer
from kombu import Connection

from celeriac.health.worker import heartbeat, install_for_solo
from celeriac.worker.drain import Drain

logger = logging.getLogger(__name__)


class Consumer(StockConsumer):
    """Celery's consumer, with its unacknowledged messages kept over a reconnect."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Delivery tags that were unacknowledged when a connection was lost.
        self.left_unacked: set[str] = set()
        super().__init__(*args, **kwargs)
        install_for_solo(self.pool)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        for channel in list(self.connection.transport.channels):
            qos = getattr(channel, "_qos", None)  # the property would make one
            if qos is not None:
                qos._flush()
                self.left_unacked.update(qos._delivered)
                qos._delivered.clear()
        super().on_connection_error_after_connected(exc)

    def ensure_connected(self, conn: Connection) -> Connection:
        heartbeat.beat_while_connecting(conn, Drain.stop_waiting)
        with Drain.may_stop_at_once():
            return super().ensure_connected(conn)


class Reattach(bootsteps.StartStopStep):
    """Consumer bootstep after a reconnect: running tasks acknowledge through the new channel, the rest go back.

    Which others there are: tasks that were fetched but not started. Their copies in this process are gone
    (``Consumer.on_close``), so they go back to the queue at once instead of after the visibility timeout.
    """

    requires = {"celery.worker.consumer.tasks:Tasks"}

    def start(self, consumer: Consumer) -> None:
        left: set[str] = getattr(consumer, "left_unacked", set())
        if not left:
            return
        channel = consumer.task_consumer.channel
        running = {request.message.delivery_tag: request.message for request in state.active_requests}
        for tag in left & running.keys():
            running[tag].channel = channel
            channel.qos._delivered[tag] = running[tag]  # counts against the prefetch until it is acked
        for tag in left - running.keys():
            channel.qos.restore_by_tag(tag)
        logger.info("reattached %d running tasks, put %d back", len(left & running.keys()), len(left - running.keys()))
        left.clear()
