"""The way to Redis for what is sent beside Celery's own: together, within a second, or not now."""

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis
from celery import Celery
from kombu import Connection, Producer
from kombu.exceptions import BatchPublishError, KombuError
from kombu.transport.redis import Channel, PublishBatch
from redis.exceptions import RedisError, ResponseError

#: What sending raises when Redis is away, full, or too slow to answer; the last when it keeps the results, too.
BROKER_AWAY: tuple[type[Exception], ...] = (KombuError, RedisError, BatchPublishError, OSError)
#: A command of Redis and its arguments.
Command = tuple[Any, ...]
#: Seconds that a caller waits for Redis at most.
PATIENCE = 1.0
#: Seconds after an answer in which nobody looks whether the connection has been closed.
FRESH = 1.0

_local = threading.local()


class Publisher:
    """A connection to the broker, made when it is first needed, and again after it failed. Not for two threads."""

    def __init__(self, app: Celery, batch: type[PublishBatch] = PublishBatch, **options: Any) -> None:
        """``options`` are laid over ``broker_transport_options``."""
        self.app, self.batch_class, self.options = app, batch, options
        self.connection: Connection | None = None
        #: For ``execute``: a connection of redis-py's.
        self.wire: Any = None
        #: Answers that are to come through it, and when the last came, on the monotonic clock.
        self.unread, self.answered = 0, 0.0
        #: Names of queues that were declared through it.
        self.declared: set[str] = set()

    @contextmanager
    def batch(self) -> Iterator[Producer]:
        """A producer whose messages leave together when the block ends. Raises one of ``BROKER_AWAY``."""
        with self.producing() as producer, producer.batch():
            yield producer

    @contextmanager
    def producing(self) -> Iterator[Producer]:
        """A producer. Raises one of ``BROKER_AWAY``."""
        with self as channel:
            yield self.app.amqp.Producer(channel, auto_declare=False)

    def __enter__(self) -> Channel:
        """Connected: what it sends through. Raises one of ``BROKER_AWAY``, as the block may."""
        if self.connection is None:
            try:
                self._connect()
            except BaseException:
                self.close()
                raise
        return self.channel

    def __exit__(self, kind: type[BaseException] | None, *about: Any) -> None:
        if kind:  # a time limit, too: the next one would find half a connection, or read another's answer
            self.close()

    def execute(self, commands: Sequence[Command], wait: bool = True) -> None:
        """In one round trip, on a connection of its own: a client's pool, pipeline and parser cost 50 us.

        Within its block. Raises what Redis raises, but when it is not to ``wait`` for that.
        """
        if self.unread or time.monotonic() - self.answered > FRESH:
            self.freshen()
        self.unread = len(commands)
        unsent = memoryview(b"".join(map(hiredis.pack_command, commands)))
        try:
            while unsent:  # not `sendall`, whose timeout is for all of them together
                unsent = unsent[self.wire._sock.send(unsent) :]
            if wait:
                self.read()
        except BlockingIOError as error:
            raise TimeoutError("Redis does not answer in time") from error

    def freshen(self) -> None:
        """Connect anew when Redis, or a proxy, has closed the connection meanwhile, or a call before went wrong."""
        try:
            self.read()
            if not self.poll.poll(0):  # what there is to read now is the connection's end
                return
        except (RedisError, OSError):  # who did not wait for that answer does without it
            pass
        self.wire.disconnect()
        self._connect_wire()

    def read(self) -> None:
        """The answers that are to come."""
        while self.unread:
            while (answer := self.answers.gets()) is False:
                if not (data := self.wire._sock.recv(65536)):
                    raise ConnectionError("Redis closed the connection")
                self.answers.feed(data)
            if isinstance(answer, hiredis.PushNotification):  # that it moves, say
                continue
            if isinstance(answer, Exception):
                raise answer
            self.unread -= 1
        self.answered = time.monotonic()

    def close(self) -> None:
        if self.wire:
            self.wire.disconnect()
        if self.connection:
            self.connection.release()
        self.connection = self.wire = None
        self.declared.clear()

    def _connect(self) -> None:
        self.connection = self.app.connection_for_write(transport_options=self.options)
        # Tried once more at once; by itself kombu would sleep, and default_channel try for ever.
        self.connection.ensure_connection(max_retries=1, interval_start=0)
        self.channel = self.connection.channel()
        self.channel.create_publish_batch = lambda max_size: self.batch_class(self.channel, max_size)
        self.wire = self.channel.pool.make_connection()
        self._connect_wire()

    def _connect_wire(self) -> None:
        self.wire.connect()
        self.answers, self.unread, self.answered = hiredis.Reader(replyError=ResponseError), 0, time.monotonic()
        sock = self.wire._sock
        self.poll = select.poll()
        self.poll.register(sock, select.POLLIN)
        timeout = sock.gettimeout()
        # The kernel's timeout: Python's own is another system call each time. TLS, and gevent, would wait for ever.
        if timeout and type(sock).__module__ == "socket":
            for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", int(timeout), int(timeout % 1 * 1e6)))
            sock.settimeout(None)


def publisher(app: Celery) -> Publisher:
    """This thread's, in this process: a connection must not be shared over a fork."""
    if getattr(_local, "pid", None) != os.getpid():
        _local.pid = os.getpid()
        _local.publisher = Publisher(app, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
    return _local.publisher
