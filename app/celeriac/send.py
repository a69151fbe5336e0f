"""How a task is sent: what is the same in every message of a task is prepared once.

Celery asks its router, its settings and its queues anew for every ``delay()``, and needs a second round trip for the
event that says so: 400 us. What has no options of its own needs none of that; the message is the same, key by key, and
so are the signals. Everything else, and everything that goes wrong, is Celery's own way.

While nobody but our log listens to the signals, a message is a text whose gaps are filled in (5 us). Otherwise it is
made of its parts, which who listens may change (40 us).
"""

import math
import os
import time
from binascii import b2a_base64
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import chain, count
from json.encoder import c_make_encoder  # type: ignore[attr-defined]
from json.encoder import encode_basestring_ascii as quoted
from typing import Any, NamedTuple

import celery
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
from kombu.utils.json import JSONEncoder
from structlog.contextvars import get_contextvars

from celeriac.broker import Command, publisher
from celeriac.jobs import is_durable
from celeriac.sampling import Sampler
from celeriac.transport import process
from celeriac.worker import logs

#: Arguments whose ``repr`` is what ``saferepr`` says.
PLAIN: frozenset[type] = frozenset({int, float, bool, type(None)})
#: Messages in one command.
CHUNK = 1000
#: Digits of an id that those of ids made together share; and the ends that follow.
OWN = 32
ENDS = [f"{number:04x}" for number in range(CHUNK)]
#: What a message says of what follows its task, when nothing does.
EMBEDDED: dict[str, Any] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
#: A value in the text of a message that is filled in.
GAP = "\0"

#: As ``json.JSONEncoder.iterencode`` makes one for each value.
_encode = c_make_encoder(None, JSONEncoder().default, quoted, None, ": ", ", ", False, False, True)
_tags = count(1)
_sampler = Sampler()


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
    django, changes = object.__getattribute__(settings, "_wrapped"), task.app.conf.__dict__["changes"]
    known = _known.get(task.name)
    if known is None or known.task is not task or known.django is not django or known.celery != changes:
        known = _known[task.name] = Known(task, django, dict(changes), prepare(task.app, task))
    return known.sender


def prepare(app: Celery, task: Any) -> "Sender | None":
    conf = app.conf
    options = {name: value for name, value in task._get_exec_options().items() if value is not None}
    routes = conf.task_routes or {}
    if (
        not settings.PREPARED_MESSAGES
        or conf.task_always_eager
        or conf.task_protocol != 2
        or conf.task_compression
        or conf.task_inherit_parent_priority
        or conf.broker_transport_options.get("global_keyprefix")
        or options.pop("serializer", conf.task_serializer) != "json"
        or options.keys() - {"time_limit", "soft_time_limit"}
        or not isinstance(routes, dict)
        or getattr(app.backend, "hears_of_sending", True)
        or type(task).shadow_name is not StockTask.shadow_name
        or task._dump_pydantic_arguments is not None
        or not all(map(is_celerys, (StockTask.apply_async, Celery.send_task)))
        or (task.soft_time_limit or 0) > (task.time_limit or math.inf)
    ):
        return None
    routed = app.amqp.router.route({}, task.name, (), {}, task)
    queue = routed.pop("queue", None)
    return Sender(app, task, queue) if queue is not None and not routed and is_direct(queue) else None


def is_celerys(function: Any) -> bool:
    """Whether nobody has put another one in its place, as tracers do to add their headers, and tests."""
    path = getattr(getattr(function, "__code__", None), "co_filename", "")
    return path.startswith(f"{os.path.dirname(celery.__file__)}{os.sep}")


def is_direct(queue: Any) -> bool:
    """Whether its messages go to the list of its name."""
    return type(queue) is Queue and queue.exchange.type == "direct" and not getattr(queue, "expires", None)


class Call(NamedTuple):
    """What to send."""

    args: Sequence[Any]
    kwargs: dict[str, Any]
    task_id: str


class Sender:
    """Sends messages of one task. Its calls raise TypeError for arguments that the task does not take."""

    def __init__(self, app: Celery, task: Any, queue: Queue) -> None:
        self.app, self.task, self.name, self.queue = app, task, task.name, queue
        self.durable = is_durable(app, task.name)
        self.sent_event = bool(app.conf.task_send_sent_event)
        self.levels = app.conf.task_repr_maxlevels
        #: Takes what the task takes; none, of a class that was registered as it is.
        self.header = getattr(task, "__header__", None)
        self.longest_args, self.longest_kwargs = app.amqp.argsrepr_maxsize, app.amqp.kwargsrepr_maxsize
        #: The text of a message with its gaps, and what it was made for.
        self.text, self.made_for = "", tuple[Any, ...]()

    def send(self, calls: Sequence[Call], parent: Any) -> None:
        """Raises one of ``BROKER_AWAY``; some of them may be in Redis then. Raises kombu's EncodeError before that.

        ``parent`` is the task that sends them, or None.
        """
        for start in range(0, len(calls), CHUNK):
            some = calls[start : start + CHUNK]
            if logs.listens_alone():
                self.send_texts(some, parent)
            else:
                messages = [(message := self.message(*call), as_json(message.body)) for call in some]
                publish(self.app, self.queue, messages, self.sent_event)

    def message(self, args: Sequence[Any], kwargs: dict[str, Any], task_id: str) -> task_message:
        """As ``celery.app.amqp.AMQP.as_task_v2`` makes it."""
        self.check(args, kwargs)
        argsrepr = self.repr_of(args, args, self.longest_args)
        family = family_of(task_id, self.app.current_worker_task)
        headers = self.headers(task_id, *family, argsrepr, self.kwargsrepr(kwargs))
        properties = {"correlation_id": task_id, "reply_to": self.app.thread_oid}
        return task_message(headers=headers, properties=properties, body=(args, kwargs, {**EMBEDDED}), sent_event=None)

    def check(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        if self.header and self.task.typing:
            self.header(*args, **kwargs)

    def headers(
        self, task_id: str, root_id: str, parent_id: str | None, argsrepr: str, kwargsrepr: str
    ) -> dict[str, Any]:
        return {
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
            "root_id": root_id,
            "parent_id": parent_id,
            "argsrepr": argsrepr,
            "kwargsrepr": kwargsrepr,
            "origin": origin(os.getpid()),
            "ignore_result": self.task.ignore_result,
            "replaced_task_nesting": 0,
            "stamped_headers": None,
            "stamps": {},
        }

    def kwargsrepr(self, kwargs: dict[str, Any]) -> str:
        return self.repr_of(kwargs, kwargs.values(), self.longest_kwargs) if kwargs else "{}"

    def written(self, args: Sequence[Any]) -> tuple[str, str]:
        """Arguments of a call, as JSON and as text."""
        return as_json(args), self.repr_of(args, args, self.longest_args)

    def all_written(self, each: Sequence[Sequence[Any]]) -> Iterable[tuple[str, str]]:
        """The same of many calls; of numbers all at once, in a quarter of the time."""
        if PLAIN.issuperset(map(type, chain.from_iterable(each))) and set(map(type, each)) == {tuple}:
            reprs = list(map(repr, each))
            if max(map(len, reprs)) < self.longest_args:
                return zip([f"[{args}]" for args in as_json(each)[2:-2].split("], [")], reprs, strict=True)
        return map(self.written, each)

    def repr_of(self, value: Any, parts: Any, most: int) -> str:
        if PLAIN.issuperset(map(type, parts)) and len(text := repr(value)) < most:
            return text
        return saferepr(value, most, maxlevels=self.levels)

    # --- As text ---------------------------------------------------------------------------------------------

    def send_texts(self, calls: Sequence[Call], parent: Any) -> None:
        context = get_contextvars()
        raw = self.texts(calls, parent, as_json(logs.handed_on(context)) if context else "{}")
        number = _sampler.shows(len(calls), time.monotonic()) if self.sent_event else 0
        push(self.app, self.queue, raw, [self.message(*call).headers for call in calls[:number]] if number else ())
        logs.say_sent(self.queue.name, [(self.name, call.task_id) for call in calls], context)

    def texts(self, calls: Sequence[Call], parent: Any, context: str) -> list[bytes]:
        """What lists in Redis hold; ``context`` is that of the log, as JSON."""
        text, reply_to = self.template(), quoted(self.app.thread_oid)
        for args, kwargs, _ in calls:
            self.check(args, kwargs)
        alone = len(calls) == 1
        written = (self.written(calls[0].args),) if alone else self.all_written([call.args for call in calls])
        raw = []
        for (_, kwargs, task_id), (args, argsrepr) in zip(calls, written, strict=True):
            body = f"[{args}, {as_json(kwargs) if kwargs else '{}'}, {EMBEDDED_JSON}]"
            body = b2a_base64(body.encode(), newline=False).decode()
            quoted_id = quoted(task_id)
            root, parents = (quoted_id, "null") if parent is None else map(as_json, family_of(task_id, parent))
            reprs = quoted(argsrepr), quoted(self.kwargsrepr(kwargs))
            gaps = (f'"{body}"', quoted_id, root, parents, *reprs, context, quoted_id, reply_to, next(_tags))
            raw.append((text % gaps).encode())
        return raw

    def template(self) -> str:
        task = self.task
        wanted = (os.getpid(), task.ignore_result, task.time_limit, task.soft_time_limit)
        if wanted != self.made_for:
            headers = self.headers(GAP, GAP, GAP, GAP, GAP) | {logs.CONTEXT: GAP}
            properties = {"correlation_id": GAP, "reply_to": GAP, **delivery_mode(self.app, self.queue)}
            text = envelope(GAP, headers, properties, "", self.queue.name, tag=f"{process()}-{GAP}")
            text = text.replace("%", "%%").replace(quoted(GAP), "%s")
            self.text, self.made_for = text.replace(quoted(GAP)[1:-1], "%s"), wanted
        return self.text


def family_of(task_id: str, parent: Any) -> tuple[str, str | None]:
    """The ids of the root and of the parent."""
    if parent is None:
        return task_id, None
    return parent.request.root_id or parent.request.id, parent.request.id


def as_json(value: Any) -> str:
    """As kombu does it, which makes a new encoder for each. Raises its EncodeError for what is no JSON."""
    try:
        return "".join(_encode(value, 0))
    except Exception as error:
        raise EncodeError(str(error)) from error


EMBEDDED_JSON = as_json(EMBEDDED)


def new_id() -> str:
    """A random UUID, as ``uuid.uuid4``, which makes an object of it first."""
    digits = os.urandom(16).hex()
    return (
        f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{'89ab'[int(digits[16], 16) & 3]}{digits[17:20]}-{digits[20:]}"
    )


def new_ids(many: int) -> list[str]:
    """The same; of each thousand only the last four digits differ."""
    return [
        start + end
        for first in range(0, many, CHUNK)
        for start in [new_id()[:OWN]]
        for end in ENDS[: min(many - first, CHUNK)]
    ]


# --- To Redis --------------------------------------------------------------------------------------------------


def publish(
    app: Celery,
    queue: Queue,
    messages: Sequence[tuple[task_message, str]],
    sent_event: bool,
    also: Sequence[Command] = (),
) -> None:
    """Messages with their bodies as JSON, in one round trip. Raises one of ``BROKER_AWAY``."""
    raw = [encode(app, queue, message, body) for message, body in messages]
    number = _sampler.shows(len(messages), time.monotonic()) if sent_event else 0
    push(app, queue, raw, [message.headers for message, _ in messages[:number]], also)
    if logs.listens_alone():
        sent = [(message.headers["task"], message.headers["id"]) for message, _ in messages]
        logs.say_sent(queue.name, sent, get_contextvars())
        return
    for message, _ in messages:
        signals.after_task_publish.send(
            sender=message.headers["task"],
            body=message.body,
            headers=message.headers,
            exchange="",
            routing_key=queue.name,
        )


def push(
    app: Celery, queue: Queue, raw: Sequence[bytes], shown: Sequence[dict[str, Any]], also: Sequence[Command] = ()
) -> None:
    """``shown`` are the headers of those for which there are events. Raises one of ``BROKER_AWAY``.

    The commands ``also`` are executed if the messages come to be there, and not otherwise. They tell so to who asks
    for it, and so nobody waits here for an answer.
    """
    mine = publisher(app)
    with mine as channel:
        if queue.name not in mine.declared:
            maybe_declare(queue, channel)
            mine.declared.add(queue.name)
        commands: list[Command] = [("LPUSH", queue.name, *raw)]
        if also:
            commands = [("MULTI",), *commands, *also, ("EXEC",)]
        if shown:
            commands += event_commands(app, channel, origin(os.getpid()), sent_events(queue, shown))
        mine.execute(commands, wait=not also)


def encode(app: Celery, queue: Queue, message: task_message, body: str) -> bytes:
    """What a list in Redis holds. Who listens to ``before_task_publish`` may change headers and properties."""
    headers, properties, unencoded, _ = message
    if logs.listens_alone():
        headers[logs.CONTEXT] = logs.receiver.get_task_context()
    else:
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
    return envelope(body, headers, {**properties, **delivery_mode(app, queue)}, "", queue.name).encode()


def delivery_mode(app: Celery, queue: Queue) -> dict[str, int]:
    return {"delivery_mode": queue.exchange.delivery_mode or setting(app, "task_default_delivery_mode")}


def envelope(
    body: str, headers: dict[str, Any], properties: dict[str, Any], exchange: str, routing_key: str, tag: str = ""
) -> str:
    """A message as kombu's virtual transports write it."""
    delivery = {"delivery_info": {"exchange": exchange, "routing_key": routing_key}, "priority": 0}
    whole = {
        "body": body if body == GAP else b2a_base64(body.encode(), newline=False).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {**properties, **delivery, "body_encoding": "base64", "delivery_tag": tag or new_id()},
    }
    return as_json(whole)


def sent_events(queue: Queue, headers_of: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
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


def event_commands(app: Celery, channel: Channel, hostname: str, events: list[dict[str, Any]]) -> list[Command]:
    """What sends them, in one message, of the node ``hostname``."""
    common = {"hostname": hostname, "utcoffset": utcoffset(), "pid": os.getpid()}
    whole = [{**common, "clock": app.clock.forward(), **event} for event in events]
    alone = len(whole) == 1
    exchange, key = setting(app, "event_exchange"), events[0]["type"].replace("-", ".") if alone else "task.multi"
    body = as_json(whole[0] if alone else whole)  # not orjson, which refuses what a file's name may have
    raw = envelope(body, {"hostname": hostname}, {"delivery_mode": 1}, exchange, key)
    return [("PUBLISH", topic, raw) for topic in channel._get_publish_topics(exchange, key)]


@cache
def setting(app: Celery, name: str) -> Any:
    """To ask Celery costs 12 us."""
    return app.conf[name]


@cache
def origin(pid: int) -> str:
    return anon_nodename()
