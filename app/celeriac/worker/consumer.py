"""The consumer that survives its broker: a lost connection costs no worker, no running task, no message.

celery 5.7.0 closes a lost connection, kombu then restores its messages through a client that is gone, and
the worker dies (``celery/worker/consumer/consumer.py``, ``on_connection_error_after_connected``). Even where
that works, it puts running tasks back into the queue, to run twice, and their late acknowledgement is lost.
Here the unacknowledged messages are set aside before the close, and sorted out on the new connection.
"""

import logging
import time
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer import Consumer as StockConsumer
from kombu import Connection

from celeriac import transport
from celeriac.health.worker import heartbeat, install_for_solo
from celeriac.jobs import HEADER
from celeriac.jobs.execution import put_off
from celeriac.worker.drain import Drain

logger = logging.getLogger(__name__)


class Consumer(StockConsumer):
    """Celery's consumer, with its unacknowledged messages kept over a reconnect."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: Channel of a lost connection -> the messages that it has by delivery tag; and when it was lost.
        self.left: dict[Any, dict[str, Any]] = {}
        self.lost_at = 0.0
        super().__init__(*args, **kwargs)
        install_for_solo(self.pool)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        self.lost_at = time.monotonic()
        for channel in list(self.connection.transport.channels):
            qos = getattr(channel, "_qos", None)  # the property would make one
            if qos is not None:
                qos._flush()
                self.left[channel] = dict(qos._delivered)
                qos._delivered.clear()
            if isinstance(channel, transport.Channel):
                channel.abandon()  # to close it would wait for what does not answer
        super().on_connection_error_after_connected(exc)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Celery drops a task that this worker does not know; a durable one waits for a worker that does.

        As in a rolling deploy, when the web is ahead of its workers.
        """
        if not message.headers.get(HEADER):
            super().on_unknown_task(body, message, exc)
            return
        logger.error("this worker does not know the task of the job %s: %s", message.headers["id"], exc)
        put_off(message.headers["id"])
        message.ack()

    def ensure_connected(self, conn: Connection) -> Connection:
        heartbeat.beat_while_connecting(conn, Drain.stop_waiting)
        with Drain.may_stop_at_once():
            return super().ensure_connected(conn)


class Reattach(bootsteps.StartStopStep):
    """Consumer bootstep after a reconnect: what was unacknowledged is acknowledged through the new channel.

    Except for tasks that were fetched and not started. Their copies in this process are gone
    (``Consumer.on_close``), so they go back to the queue, at once instead of after the visibility timeout.
    """

    requires = {"celery.worker.consumer.tasks:Tasks"}

    def start(self, consumer: Consumer) -> None:
        left, consumer.left = consumer.left, {}
        channel = consumer.task_consumer.channel
        for lost, messages in left.items():
            adopt(channel, lost, messages)
        if messages := {tag: message for each in left.values() for tag, message in each.items()}:
            # A moment later: acknowledgements that wait in the loop come first.
            consumer.timer.call_after(1.0, self.sort_out, (consumer, channel, messages))

    def sort_out(self, consumer: Consumer, channel: Any, messages: dict[str, Any]) -> None:
        running = {request.message.delivery_tag for request in state.active_requests}
        # With kombu's transport, away for longer, another worker has put them back: they may be running there by now.
        ours = isinstance(channel, transport.Channel)
        recent = ours or time.monotonic() - consumer.lost_at < channel.visibility_timeout
        for tag, message in messages.items():
            if message.acknowledged or tag in running:
                continue
            if message.headers.get("id") in state.successful_requests:  # ended while nobody could be told
                channel.basic_ack(tag)  # and not by the message, which raises when it is acknowledged twice
            elif recent:
                channel.qos.reject(tag, requeue=True)
            else:
                channel.qos._quick_ack(tag)  # forgotten here; in Redis it stays, for kombu to put back
        logger.info("reattached to the broker: %d messages, %d running", len(messages), len(running))


def adopt(channel: Any, lost: Any, messages: dict[str, Any]) -> None:
    """Make ``channel`` responsible for what one holds whose connection was lost."""
    for tag, message in messages.items():
        if message.acknowledged:  # since then
            continue
        message.channel = channel
        channel.qos._delivered[tag] = message  # counts against the prefetch until it is acknowledged
    if isinstance(channel, transport.Channel):
        channel.adopt(lost)
