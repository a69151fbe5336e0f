"""How a task is sent: what is the same in every message of a task is prepared once.

Celery asks its router, its settings and its queues anew for every ``delay()``, and needs a second round trip for the
event that says so: 400 us. What has no options of its own needs none of that; the message is the same, key by key, and
so are the signals. Everything else, and everything that goes wrong, is Celery's own way.
"""

import math
import os
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import orjson
from celery import Celery, signals
from celery.app.amqp import task_message
from celery.app.task import Task as StockTask
from celery.utils.nodenames import anon_nodename
from celery.utils.saferepr import saferepr
from celery.utils.time import utcoffset
from django.conf import settings
from kombu import Queue
from kombu.common import maybe_declare
from kombu.exceptions import EncodeError
from kombu.transport.redis import Channel
from kombu.utils.json import dumps
from kombu.utils.uuid import uuid

from celeriac.broker import publisher

#: Arguments whose ``repr`` is what ``saferepr`` says.
PLAIN: frozenset[type] = frozenset({int, float, bool, type(None)})
#: Messages in one command.
CHUNK = 1000


# --- What is the same in all messages of a task --------------------------------------------------------------


class Known(NamedTuple):
    """A task's sender, or that it has none, as long as the settings are these."""

    task: Any
    django: Any
    celery: dict[str, Any]
    sender: "Sender | None"


_known: dict[str, Known] = {}


def sender_of(task: Any) -> "Sender | None":
    """What sends this task's messages, if they are like any other's."""
    django, changes = settings.__dict__.get("_wrapped"), task.app.conf.__dict__["changes"]
    known = _known.get(task.name)
    if known is None or known.task is not task or known.django is not django or known.celery != changes:
        known = _known[task.name] = Known(task, django, dict(changes), prepare(task.app, task))
    return known.sender


def prepare(app: Celery, task: Any) -> "Sender | None":
    conf = app.conf
    options = {name: value for name, value in task._get_exec_options().items() if value is not None}
    routes = conf.task_routes or {}
    if (
        conf.task_always_eager
        or conf.task_protocol != 2
        or conf.task_compression
        or conf.task_inherit_parent_priority
        or conf.broker_transport_options.get("global_keyprefix")
        or options.pop("serializer", conf.task_serializer) != "json"
        or options.keys() - {"time_limit", "soft_time_limit"}
        or not isinstance(routes, dict)
        or not hasattr(app.backend, "row")
        or type(task).shadow_name is not StockTask.shadow_name
        or task._dump_pydantic_arguments is not None
        or (task.soft_time_limit or 0) > (task.time_limit or math.inf)
    ):
        return None
    routed = app.amqp.router.route({}, task.name, (), {}, task)
    queue = routed.pop("queue", None)
    return Sender(app, task, queue) if queue is not None and not routed and is_direct(queue) else None


def is_direct(queue: Any) -> bool:
    """Whether its messages go to the list of its name."""
    return type(queue) is Queue and queue.exchange.type == "direct" and not getattr(queue, "expires", None)


class Sender:
    """Sends messages of one task."""

    def __init__(self, app: Celery, task: Any, queue: Queue) -> None:
        self.app, self.task, self.queue = app, task, queue
        self.sent_event = bool(app.conf.task_send_sent_event)
        self.levels = app.conf.task_repr_maxlevels

    def message(self, args: Sequence[Any], kwargs: dict[str, Any], task_id: str) -> task_message:
        """As ``celery.app.amqp.AMQP.as_task_v2`` makes it. Raises TypeError for arguments the task does not take."""
        if self.task.typing:
            self.task.__header__(*args, **kwargs)
        parent = self.app.current_worker_task
        request = parent.request if parent else None
        headers = {
            "lang": "py",
            "task": self.task.name,
            "id": task_id,
            "shadow": None,
            "eta": None,
            "expires": None,
            "group": None,
            "group_index": None,
            "retries": 0,
            "timelimit": [self.task.time_limit, self.task.soft_time_limit],
            "root_id": (request.root_id or request.id) if request else task_id,
            "parent_id": request.id if request else None,
            "argsrepr": self.repr_of(args, args, self.app.amqp.argsrepr_maxsize),
            "kwargsrepr": self.repr_of(kwargs, kwargs.values(), self.app.amqp.kwargsrepr_maxsize),
            "origin": origin(os.getpid()),
            "ignore_result": self.task.ignore_result,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        }
        properties = {"correlation_id": task_id, "reply_to": self.app.thread_oid}
        body = (args, kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None})
        return task_message(headers=headers, properties=properties, body=body, sent_event=None)

    def repr_of(self, value: Any, parts: Any, most: int) -> str:
        if all(type(part) in PLAIN for part in parts) and len(text := repr(value)) < most:
            return text
        return saferepr(value, most, maxlevels=self.levels)

    def publish(self, messages: Sequence[task_message]) -> None:
        """Raises one of ``BROKER_AWAY``; some of them may be in Redis then."""
        for start in range(0, len(messages), CHUNK):
            some = messages[start : start + CHUNK]
            publish(self.app, self.queue, [(message, encoded(message)) for message in some], self.sent_event)


def encoded(message: task_message) -> str:
    """The body. Raises kombu's EncodeError for what is no JSON."""
    try:
        return dumps(message.body)
    except Exception as error:
        raise EncodeError(str(error)) from error


# --- To Redis --------------------------------------------------------------------------------------------------


def publish(
    app: Celery,
    queue: Queue,
    messages: Sequence[tuple[task_message, str]],
    sent_event: bool,
    also: Sequence[tuple[Any, ...]] = (),
) -> None:
    """Messages with their bodies as JSON, in one round trip. Raises one of ``BROKER_AWAY``.

    The commands ``also`` are executed if the messages come to be there, and not otherwise.
    """
    with connected(app, queue) as channel:
        client = channel._create_client()
        raw = [encode(app, queue, message, body) for message, body in messages]
        with client.pipeline(transaction=bool(also)) as pipe:
            pipe.lpush(queue.name, *raw)
            for command in also:
                pipe.execute_command(*command)
            if sent_event:
                events = sent_events(queue, [message.headers for message, _ in messages])
                send_events(app, channel, pipe, origin(os.getpid()), events)
            pipe.execute()
    for message, _ in messages:
        signals.after_task_publish.send(
            sender=message.headers["task"],
            body=message.body,
            headers=message.headers,
            exchange="",
            routing_key=queue.name,
        )


@contextmanager
def connected(app: Celery, queue: Queue) -> Iterator[Channel]:
    mine = publisher(app)
    with mine.connected() as channel:
        if queue.name not in mine.declared:
            maybe_declare(queue, channel)
            mine.declared.add(queue.name)
        yield channel


def encode(app: Celery, queue: Queue, message: task_message, body: str) -> bytes:
    """What a list in Redis holds. Who listens to ``before_task_publish`` may change headers and properties."""
    headers, properties, unencoded, _ = message
    signals.before_task_publish.send(
        sender=headers["task"],
        body=unencoded,
        exchange="",
        routing_key=queue.name,
        declare=[queue],
        headers=headers,
        properties=properties,
        retry_policy=setting(app, "task_publish_retry_policy"),
    )
    about = {"delivery_mode": queue.exchange.delivery_mode or setting(app, "task_default_delivery_mode")}
    return envelope(body, headers, {**properties, **about}, "", queue.name)


def envelope(body: str, headers: dict[str, Any], properties: dict[str, Any], exchange: str, routing_key: str) -> bytes:
    """A message as kombu's virtual transports write it."""
    delivery = {"delivery_info": {"exchange": exchange, "routing_key": routing_key}, "priority": 0}
    whole = {
        "body": b64encode(body.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {**properties, **delivery, "body_encoding": "base64", "delivery_tag": uuid()},
    }
    return dumps(whole).encode()


def sent_events(queue: Queue, headers_of: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """``task-sent``, as Celery says it."""
    common: dict[str, Any] = {"type": "task-sent", "queue": queue.name, "exchange": "", "routing_key": queue.name}
    common |= {"timestamp": time.time(), "eta": None, "expires": None}
    return [
        {
            **common,
            "uuid": headers["id"],
            "root_id": headers["root_id"],
            "parent_id": headers["parent_id"],
            "name": headers["task"],
            "args": headers["argsrepr"],
            "kwargs": headers["kwargsrepr"],
            "retries": headers["retries"],
        }
        for headers in headers_of
    ]


def send_events(app: Celery, channel: Channel, client: Any, hostname: str, events: list[dict[str, Any]]) -> None:
    """In one message, of the node ``hostname``. ``client`` may be a pipeline."""
    common = {"hostname": hostname, "utcoffset": utcoffset(), "pid": os.getpid()}
    whole = [{**common, "clock": app.clock.forward(), **event} for event in events]
    alone = len(whole) == 1
    exchange, key = setting(app, "event_exchange"), events[0]["type"].replace("-", ".") if alone else "task.multi"
    body = orjson.dumps(whole[0] if alone else whole).decode()
    raw = envelope(body, {"hostname": hostname}, {"delivery_mode": 1}, exchange, key)
    for topic in channel._get_publish_topics(exchange, key):
        client.publish(topic, raw)


@cache
def setting(app: Celery, name: str) -> Any:
    """To ask Celery costs 12 us."""
    return app.conf[name]


@cache
def origin(pid: int) -> str:
    return anon_nodename()
