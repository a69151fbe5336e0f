"""Celery's way to Redis, without a moment in which a message is in no key: kombu's transport with another fetch.

Stock takes a message by BRPOP, and registers it in ``unacked`` by a second command: a worker that dies in between, or a
connection that is cut while Redis answers, loses it. It also spends a round trip on each message for each of fetch,
registration and acknowledgement. Here

- a script takes messages from their queue and registers them, many in one round trip;
- a worker with nothing to do waits by BLMOVE, which rings by moving one message into a list of this process (its
  inbox); the script takes it from there;
- acknowledgements are sent together with the next fetch, and kept until Redis has taken them;
- every fetch gives a message a delivery tag of its own: who lost a message because it was silent for longer than the
  visibility timeout cannot acknowledge the delivery that another worker has by then (stock can, and the message is lost
  when that one dies).

Messages are those of stock Celery, in the same queues; a stock producer or worker can share them. What is in progress
is in one hash for each queue, ``unacked.<queue>``: its length is the number of running and reserved tasks.

``CELERY_BROKER_TRANSPORT=redis`` goes back to kombu's own. Redis 6.2 or newer is needed.
"""

import itertools
import json
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha1
from queue import Empty
from typing import Any, NamedTuple, cast
from uuid import uuid4

import orjson
from django.core.exceptions import ImproperlyConfigured
from kombu.transport import TRANSPORT_ALIASES, _transport_cache, virtual
from kombu.transport import redis as stock
from redis import Redis
from redis.exceptions import MaxConnectionsError, NoScriptError, OutOfMemoryError, RedisError, ResponseError

logger = logging.getLogger(__name__)

#: Messages in one fetch, at most; and in hand where each is fetched and acknowledged at once, because tasks are slow.
MOST, FEW = 100, 8
#: Messages in one fetch for a pool that takes them by many, at most.
MOST_TAKEN = 400
#: Seconds for which acknowledgements may wait for the next fetch.
SOON = 0.02
#: Messages that one script brings back to their queue, at most; tags in one command, whose number Lua limits; and
#: seconds after which a look leaves the rest to the next one.
RESTORE_MOST, TAGS_MOST, RESTORING = 100, 1000, 0.1
#: Answers that a connection for remote control may owe us, asked for every ``health_check_interval``.
MISSED_MOST = 2
#: Inboxes that a living process may have messages in -> when it last gave a sign of life.
INBOXES = "celeriac.inboxes"

#: Where time matters it is Redis's, so that the clocks of two hosts may differ.
NOW = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
"""

#: KEYS: queue's list, inbox, unacked, index, for each list; ARGV: tag's prefix, its first number, most.
FETCH = f"""{NOW}
local number, most, found = tonumber(ARGV[2]), tonumber(ARGV[3]), {{}}
for k = 1, #KEYS, 4 do
  for _, from in ipairs({{KEYS[k + 1], KEYS[k]}}) do
    local messages = most > 0 and redis.call('RPOP', from, most)
    if messages and #messages > 0 then
      local held, scores = {{}}, {{}}
      for _, message in ipairs(messages) do
        local tag = ARGV[1] .. string.format('%012d', number)
        number = number + 1
        held[#held + 1] = tag
        held[#held + 1] = KEYS[k] .. '\\n' .. message
        scores[#scores + 1] = now
        scores[#scores + 1] = tag
        found[#found + 1] = (k - 1) / 4
        found[#found + 1] = message
      end
      redis.call('HSET', KEYS[k + 2], unpack(held))
      redis.call('ZADD', KEYS[k + 3], unpack(scores))
      most = most - #messages
    end
  end
  while most == 0 and redis.call('LMOVE', KEYS[k + 1], KEYS[k], 'LEFT', 'RIGHT') do end  -- others may have room
end
return found
"""

#: Put messages back. ARGV: RPUSH for the front of the queue, or LPUSH for its end; then the tags, or, without one,
#: those that nobody renewed for ARGV[2] seconds.
RESTORE = """
redis.call('HDEL', KEYS[1], '')  -- once a script has written, a full Redis takes all that it writes
local restored = 0
for t = #tags, 1, -1 do  -- so that the first of them is taken first again
  local tag = tags[t]
  local held = redis.call('HGET', KEYS[1], tag)
  if held then
    local cut = string.find(held, '\\n', 1, true)
    local message = string.sub(held, cut + 1)
    if not string.find(message, '"redelivered": ?true') then
      message = string.gsub(message, '"delivery_info": ?{ ?(.)', function (after)
        return '"delivery_info": {"redelivered": true' .. (after == '}' and '}' or ', ' .. after)
      end, 1)
    end
    redis.call(ARGV[1], string.sub(held, 1, cut - 1), message)
    redis.call('HDEL', KEYS[1], tag)
    restored = restored + 1
  end
  redis.call('ZREM', KEYS[2], tag)
end
return restored
"""
#: KEYS: unacked, index.
RESTORE_TAGS = f"local tags = {{unpack(ARGV, 2)}}\n{RESTORE}"
RESTORE_SILENT = f"""{NOW}
local tags = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now - tonumber(ARGV[2]), 'LIMIT', 0, {RESTORE_MOST})
{RESTORE}"""

#: KEYS: inbox, its queue's list, INBOXES. ARGV: the member of INBOXES.
EMPTY_INBOX = """
redis.call('ZREM', KEYS[3], ARGV[1])
while redis.call('LMOVE', KEYS[1], KEYS[2], 'LEFT', 'RIGHT') do end
"""
#: KEYS: INBOXES. ARGV: seconds. Returns members.
SILENT_INBOXES = f"{NOW} return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[1]))"

#: A sign of life. KEYS: a sorted set. ARGV: XX for those that are there only, or GT for new ones too; members.
RENEW = f"""{NOW}
redis.call('ZREM', KEYS[1], '')  -- as above
for m = 2, #ARGV do redis.call('ZADD', KEYS[1], ARGV[1], now, ARGV[m]) end
"""

SCRIPTS = {"fetch": FETCH, "restore": RESTORE_TAGS, "restore_silent": RESTORE_SILENT, "empty_inbox": EMPTY_INBOX}
SCRIPTS |= {"silent_inboxes": SILENT_INBOXES, "renew": RENEW}
SHA = {name: sha1(text.encode()).hexdigest() for name, text in SCRIPTS.items()}  # noqa: S324 - Redis's name of a script

_channels = itertools.count(1)
_process = ""


def process() -> str:
    """A name that no other process has had or will have."""
    return _process


def rename_process() -> None:
    global _process
    _process = uuid4().hex[:16]


rename_process()
os.register_at_fork(after_in_child=rename_process)


def inbox_key(key: str) -> str:
    """Where this process's bell moves what it rings for, from the list ``key``."""
    return f"inbox.{process()}.{key}"


def unacked_key(queue: str) -> str:
    """The hash of the queue's messages that workers have: tag -> list, line break, message."""
    return f"unacked.{queue}"


def index_key(queue: str) -> str:
    """The sorted set of their tags, by when their worker gave its last sign of life."""
    return f"unacked_index.{queue}"


class Fetched(NamedTuple):
    queue: str
    #: Its delivery tag.
    tag: str
    #: For a look; ``exactly`` reads it for good.
    message: dict[str, Any]
    raw: bytes


class QoS(stock.QoS):
    """What this channel has fetched and not acknowledged."""

    channel: "Channel"

    @property
    def visibility_timeout(self) -> float:
        """Seconds, of what a stock worker left in stock's keys: its own default, which nobody renews."""
        return max(3600, self.channel.visibility_timeout)

    def room(self) -> int:
        """How many messages may be fetched now."""
        most = self.can_consume_max_estimate()
        return MOST if most is None else min(most, MOST)

    def low(self, room: int) -> bool:
        """Whether it is time to fetch: at once, but where many are in hand when half of them are gone."""
        return room > 0 and (self.prefetch_count <= FEW or 2 * room >= self.prefetch_count)

    def append(self, message: Any, delivery_tag: str) -> None:
        virtual.QoS.append(self, message, delivery_tag)  # the fetch has registered it

    def ack(self, delivery_tag: str) -> None:
        self.channel.acknowledge(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        if requeue:
            self.channel.restore([delivery_tag], "LPUSH")
        else:
            self.channel.acknowledge(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def restore_unacked(self, client: Any = None) -> None:
        self._flush()
        self.channel.restore(list(self._delivered), "RPUSH")
        self._delivered.clear()

    def restore_visible(self, *args: Any, **kwargs: Any) -> None:
        self.channel.restore_silent()
        with suppress(ResponseError):  # Redis is full
            super().restore_visible(*args, **kwargs)


class Bell:
    """A connection that waits until a list has a message, by moving it to this process's inbox."""

    #: Seconds after which it is rung again without one.
    TIMEOUT = 1.0

    def __init__(self, channel: "Channel", key: str) -> None:
        self.key, self.inbox = key, inbox_key(key)
        self.connection = channel.async_pool.get_connection()  # connected
        self.socket = self.connection._sock
        self.fileno = self.socket.fileno()
        self.waiting_since = self.rests_until = 0.0

    @property
    def member(self) -> str:
        """Of ``INBOXES``."""
        return f"{self.key}\n{self.inbox}"

    def wait(self) -> None:
        now = time.monotonic()
        if not self.waiting_since and now >= self.rests_until:
            self.waiting_since = now
            words = ("BLMOVE", self.key, self.inbox, "RIGHT", "RIGHT", self.TIMEOUT)
            self.connection.send_command(*words, check_health=False)  # that would wait for an answer

    @property
    def broken(self) -> bool:
        """Whether its socket was closed, by redis-py; another one may have its number by now."""
        return self.connection._sock is not self.socket

    def answer(self, **options: Any) -> bool:
        """Whether there may be a message."""
        self.waiting_since = 0.0
        try:
            return self.connection.read_response(**options) is not None
        except OutOfMemoryError:  # a full Redis moves nothing; but what is there can be fetched
            self.rests_until = time.monotonic() + self.TIMEOUT
            return True

    def overdue(self, patience: float) -> bool:
        if not self.waiting_since or time.monotonic() - self.waiting_since < self.TIMEOUT + patience:
            return False
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return not poll.poll(0)  # else it has answered, and it is we who were busy


class Channel(stock.Channel):
    """kombu's, with another way to fetch and to acknowledge."""

    QoS = QoS
    #: Of the pool that bells have their connections from: four for each queue, one for each priority.
    max_connections = 1000
    priority_steps: list[int]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        #: List -> its bell.
        self.bells: dict[str, Bell] = {}
        #: (queue, tag) that Redis has not been told.
        self.acknowledged: deque[tuple[str, str]] = deque()
        self.acknowledged_since = 0.0
        self._acknowledging = threading.Lock()
        #: Tag -> queue, of what this channel holds.
        self.queue_of: dict[str, str] = {}
        self.never_acknowledged: set[str] = set()
        #: Of this channel in its process, and of the next tag.
        self.number, self.tags = next(_channels), 1
        self.may_have_more = True
        #: What takes messages as they come, by many, before they are delivered one by one: celeriac.worker.prefork's.
        self.taker: Any = None
        self._one_client: Any = None
        super().__init__(*args, **kwargs)
        if self.global_keyprefix:
            raise ImproperlyConfigured(
                "CELERY_BROKER_TRANSPORT_OPTIONS: global_keyprefix needs kombu's transport; set "
                "CELERY_BROKER_TRANSPORT=redis, or give Celeriac a database of its own in CELERY_BROKER_URL."
            )

    # --- Commands --------------------------------------------------------------------------------------------

    def _create_client(self, asynchronous: bool = False) -> Any:
        """One for all commands; stock makes one for each (80 us)."""
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._one_client is None or self._one_client.connection_pool is not self.pool:
            self._one_client = super()._create_client()
        return self._one_client

    def script(self, name: str, keys: list[str], arguments: Iterable[Any], pipe: Any = None) -> Any:
        """Run one of ``SCRIPTS``, as the last command of ``pipe``. Raises what Redis raises when it is away."""
        client = cast(Redis, self._create_client())
        command = ["EVALSHA", SHA[name], len(keys), *keys, *arguments]
        try:
            return pipe.execute_command(*command).execute()[-1] if pipe else client.execute_command(*command)
        except NoScriptError:  # for the first time, or Redis was restarted
            client.script_load(SCRIPTS[name])
            return client.execute_command(*command)

    @contextmanager
    def acknowledging(self) -> Iterator[Any]:
        """A pipeline with what has been acknowledged; forgotten here when the block, in which it is sent, has ended."""
        with self._acknowledging, self._create_client().pipeline(transaction=False) as pipe:
            taken = list(self.acknowledged)
            for queue, tags in by_queue(taken):
                pipe.hdel(unacked_key(queue), *tags)
                pipe.zrem(index_key(queue), *tags)
            yield pipe
            for _ in taken:
                self.acknowledged.popleft()

    def _size(self, queue: str) -> int:
        client = cast(Any, self._create_client())  # not as one transaction: a full Redis refuses any
        return sum(client.llen(key) for key in self._lists([queue]))

    def _queue_bind(self, *args: Any) -> None:
        try:
            super()._queue_bind(*args)
        except ResponseError as error:  # a worker that starts while Redis is full; the binding is there for long
            logger.warning("binding a queue: %s", error)

    # --- Fetch -----------------------------------------------------------------------------------------------

    def turn(self) -> bool:
        """Once around the loop: acknowledge, fetch, wait. Returns whether messages were delivered."""
        queues = self.active_queues
        room = self.room() if queues else 0
        delivered = False
        if self.may_have_more and (self.qos.low(room) if self.taker is None else room):
            delivered = self.deliver(self.fetch(self._queue_cycle.consume(len(queues)), room))
            room = self.room()
        elif self.acknowledged and not self.may_acknowledge_later():
            self.flush()
        if room and not self.may_have_more:
            self.wait()
        return delivered

    def room(self) -> int:
        room = self.qos.room()
        return min(room and self.taker.room(), MOST_TAKEN) if self.taker else room

    def fetch(self, queues: list[str], room: int) -> list[Fetched]:
        """Up to ``room`` messages, registered as held by this process."""
        lists = [(self._q_for_pri(queue, step), queue) for step in self.priority_steps for queue in queues]
        keys = [key for each, queue in lists for key in (each, inbox_key(each), unacked_key(queue), index_key(queue))]
        prefix, first = f"{process()}.{self.number}.", self.tags
        self.tags += room  # before: an answer that is lost has used them, and nothing may be written over its messages
        with self.acknowledging() as pipe:
            answer = self.script("fetch", keys, [prefix, first, room], pipe)
        found = list(zip(answer[::2], answer[1::2], strict=True))
        self.may_have_more = len(found) >= room
        for index in dict.fromkeys(answer[::2]):
            self._queue_cycle.rotate(lists[index][1])  # the others are first next time
        messages = []
        for number, (index, raw) in enumerate(found, first):
            queue, tag = lists[index][1], f"{prefix}{number:012}"
            self.queue_of[tag] = queue
            if message := readable(raw):
                messages.append(Fetched(queue, tag, message, raw))
            else:
                self.acknowledge(tag)
        return messages

    def deliver(self, messages: list[Fetched]) -> bool:
        left = messages
        if self.taker:
            left = self.taker.take(messages)
            left, too_many = left[: self.qos.room()], left[self.qos.room() :]
            self.restore([each.tag for each in too_many], "RPUSH")
        for number, (queue, tag, _, raw) in enumerate(left, 1):
            message = exactly(raw, tag)
            try:
                self.connection._deliver(message, queue)
            except BaseException:
                if not self.is_whole(message):
                    logger.critical("dropped from %s, because its body cannot be decoded: %.500r", queue, message)
                    self.acknowledge(tag)
                    continue
                for other in left[number:]:  # nobody has them: they are not renewed, and come back
                    del self.queue_of[other.tag]
                raise
            if queue in self.never_acknowledged:
                self.acknowledge(tag)
        return bool(messages)

    def is_whole(self, message: dict[str, Any]) -> bool:
        try:
            return bool(self.Message(message, channel=self))
        except Exception:  # whatever its codec says
            return False

    def basic_consume(self, queue: str, no_ack: bool, *args: Any, **kwargs: Any) -> Any:
        self.may_have_more = True
        (self.never_acknowledged.add if no_ack else self.never_acknowledged.discard)(queue)
        return super().basic_consume(queue, no_ack, *args, **kwargs)

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        message = super().basic_get(queue, no_ack, **kwargs)
        if message and no_ack:
            self.acknowledge(message.delivery_tag)
        return message

    def _get(self, queue: str, timeout: Any = None) -> dict[str, Any]:
        more = self.may_have_more
        messages = self.fetch([queue], 1)
        self.may_have_more = more
        if not messages:
            raise Empty
        return exactly(messages[0].raw, messages[0].tag)

    # --- Bells -----------------------------------------------------------------------------------------------

    def wait(self) -> None:
        """Ring when one of the queues has a message."""
        keys = list(self._lists(self.active_queues))
        if new := [key for key in keys if key not in self.bells]:
            self.bells |= {key: self.new_bell(key) for key in new}
            self.renew_inboxes()
        for key in keys:
            self.bells[key].wait()

    def new_bell(self, key: str) -> Bell:
        try:
            bell = Bell(self, key)
        except MaxConnectionsError as error:
            most = self.connection.client.transport_options.get("max_connections")
            raise ImproperlyConfigured(
                f"CELERY_BROKER_TRANSPORT_OPTIONS: max_connections is {most}, and a worker needs "
                f"{len(self.priority_steps)} for each queue it reads, and two more; give it more, or set "
                "CELERY_BROKER_TRANSPORT=redis."
            ) from error
        self.connection.cycle.hang(self, bell)
        return bell

    def rung(self, bell: Bell) -> None:
        """The socket of a bell is readable."""
        if bell.broken:
            return self.check_bells()
        try:
            rang = bell.answer()
        except self.connection_errors:
            self.drop(bell)
            raise
        if rang and not (self.qos.room() and bell.key in self._lists(self.active_queues)):
            self.empty_inbox(bell.member)  # not wanted any more: others may have room
        self.may_have_more |= rang

    def check_bells(self) -> None:
        """A connection that is cut says nothing. Raises ConnectionError, so that the consumer makes all anew."""
        bells = self.bells.values()
        if late := [bell for bell in bells if bell.broken or bell.overdue(self.health_check_interval)]:
            self.abandon()
            raise ConnectionError(f"Redis did not answer {len(late)} connections in time")

    def drop(self, bell: Bell) -> None:
        self.connection.cycle.take_down(bell)
        self.bells.pop(bell.key, None)
        bell.connection.disconnect()
        self.async_pool.release(bell.connection)

    def abandon(self) -> None:
        """Let go of connections that do not answer; what comes to an inbox is fetched through the next one."""
        for bell in list(self.bells.values()):
            self.drop(bell)

    def _lists(self, queues: Iterable[str]) -> Iterator[str]:
        return (self._q_for_pri(queue, step) for queue in queues for step in self.priority_steps)

    def _basic_cancel(self, consumer_tag: str) -> Any:
        keys = set(self._lists([self._tag_to_queue.get(consumer_tag, "")]))
        cancelled = super()._basic_cancel(consumer_tag)
        with suppress(*self.connection_errors):  # what is there comes back after the visibility timeout
            for bell in list(self.bells.values()):
                if bell.key in keys:
                    self.empty_inbox(bell.member)
        return cancelled

    # --- What is held ----------------------------------------------------------------------------------------

    def acknowledge(self, tag: str) -> None:
        """From any thread. Where an event loop turns, Redis is told at its next turn."""
        if queue := self.queue_of.pop(tag, ""):
            if not self.acknowledged:
                self.acknowledged_since = time.monotonic()
            self.acknowledged.append((queue, tag))
        if self.connection and not self.connection.cycle.loop:
            self.flush()

    def may_acknowledge_later(self) -> bool:
        """With the next fetch, if that is a moment away: where many are in hand."""
        return len(self.queue_of) > FEW and time.monotonic() - self.acknowledged_since < SOON

    def flush(self) -> None:
        if self.acknowledged:
            with self.acknowledging() as pipe:
                pipe.execute()

    def adopt(self, other: "Channel") -> None:
        """What ``other``, whose connection was lost, holds, and what it could not acknowledge."""
        self.acknowledged.extend(other.acknowledged)
        self.queue_of |= other.queue_of

    def restore(self, tags: list[str], push: str) -> None:
        """Put them back: at the front of their queue (RPUSH) or at its end (LPUSH)."""
        for queue, some in by_queue((self.queue_of.pop(tag, ""), tag) for tag in tags):
            for start in reversed(range(0, len(some) if queue else 0, TAGS_MOST)):
                chunk = some[start : start + TAGS_MOST]
                self.script("restore", [unacked_key(queue), index_key(queue)], [push, *chunk])

    def restore_silent(self) -> None:
        """Bring back what workers hold that gave no sign of life for the visibility timeout."""
        try:
            for queue in self.active_queues:
                if count := sum(self.bring_back(queue)):
                    logger.warning("%d messages of workers that died are back in %s", count, queue)
                    self.may_have_more = True
            for member in self.script("silent_inboxes", [INBOXES], [self.visibility_timeout]):
                self.empty_inbox(member.decode())
        except ResponseError as error:
            logger.warning("messages of dead workers are not brought back yet: %s", error)

    def bring_back(self, queue: str) -> Iterator[int]:
        until, count = time.monotonic() + RESTORING, RESTORE_MOST
        while count == RESTORE_MOST and time.monotonic() < until:
            arguments = ["RPUSH", self.visibility_timeout]
            yield (count := self.script("restore_silent", [unacked_key(queue), index_key(queue)], arguments))

    def empty_inbox(self, member: str) -> None:
        key, _, inbox = member.partition("\n")
        self.script("empty_inbox", [inbox, key, INBOXES], [member])

    def renew(self) -> None:
        """Say that this process is alive, and holds what it holds. From any thread."""
        for queue, tags in by_queue((queue, tag) for tag, queue in list(self.queue_of.items())):
            for start in range(0, len(tags), TAGS_MOST):
                self.script("renew", [index_key(queue)], ["XX", *tags[start : start + TAGS_MOST]])
        self.renew_inboxes()

    def renew_inboxes(self) -> None:
        if members := [bell.member for bell in list(self.bells.values())]:
            self.script("renew", [INBOXES], ["GT", *members])

    def close(self) -> None:
        if not self.closed:
            for last in (self.flush, self._close_bells):
                try:
                    last()
                except (*self.connection_errors, RedisError) as error:  # comes back after the visibility timeout
                    logger.debug("not told to Redis: %s", error)
            self.abandon()
        super().close()

    def _close_bells(self) -> None:
        for bell in self.bells.values():
            if bell.waiting_since:
                bell.answer(timeout=2 * Bell.TIMEOUT)
        for bell in self.bells.values():
            self.empty_inbox(bell.member)


class Poller(stock.MultiChannelPoller):
    """The sockets that a connection's channels wait at."""

    _channels: set[Channel]

    def __init__(self) -> None:
        super().__init__()
        #: The event loop that calls ``on_poll_start`` at every turn, if there is one; whether it is doing so.
        self.loop: Any = None
        self.turning = False
        self.bells: dict[int, tuple[Channel, Bell]] = {}
        self.forget: Callable[[int], object] = self.poller.unregister

    def on_poll_start(self) -> bool:
        """Returns whether messages were delivered."""
        if self.turning:
            return False
        self.turning, delivered = True, False
        try:
            for channel in list(self._channels):
                delivered |= channel.turn()
                if channel.active_fanout_queues:
                    self._register_LISTEN(channel)
            self.forget_closed()
            if delivered and self.loop:
                # The pool's, which gives tasks to its children, may have been called before this one, and the loop
                # would sleep now, with tasks in hand, until anything else happens.
                for callback in list(self.loop.on_tick):
                    callback()
        finally:
            self.turning = False
        return delivered

    def forget_closed(self) -> None:
        """Sockets that redis-py has closed: the next thing that is opened, a child's pipe say, has their number."""
        for fileno, (channel, _) in list(self._fd_to_chan.items()):
            socket = getattr(channel.subclient.connection, "_sock", None)
            if socket is None or socket.fileno() != fileno:
                del self._fd_to_chan[fileno]
        if any(bell.broken for _, bell in self.bells.values()):
            self.maybe_check_brpop_health()

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Deliver at least one message, or raise Empty; for those without an event loop."""
        self._in_protected_read = True
        try:
            if self.on_poll_start():
                return
            for fileno, event in self.poller.poll(timeout) or ():
                if self.handle_event(fileno, event) and fileno not in self.bells:
                    return
            if self.on_poll_start():
                return
            self.maybe_check_brpop_health()
            self.maybe_restore_messages()
            raise Empty
        finally:
            self._in_protected_read = False
            while self.after_read:
                self.after_read.pop()()

    def on_readable(self, fileno: int) -> bool:
        if fileno in self.bells:
            channel, bell = self.bells[fileno]
            channel.rung(bell)
            return True
        super().on_readable(fileno)
        return True

    def handle_event(self, fileno: int, event: int) -> Any:
        if fileno in self.bells:
            return self.on_readable(fileno)
        return super().handle_event(fileno, event)

    def hang(self, channel: Channel, bell: Bell) -> None:
        self.bells[bell.fileno] = (channel, bell)
        self.poller.register(bell.fileno, self.eventflags)  # the event loop does it at every turn, too

    def take_down(self, bell: Bell) -> None:
        if self.bells.get(bell.fileno, (None, None))[1] is bell:
            del self.bells[bell.fileno]
            with suppress(KeyError, ValueError, OSError):
                self.forget(bell.fileno)

    def maybe_check_brpop_health(self) -> None:
        for channel in list(self._channels):
            channel.check_bells()

    def maybe_check_subclient_health(self) -> None:
        """Stock connects a pub/sub that does not answer anew, by itself; but then the others are cut, too."""
        for channel in list(self._channels):
            listening = channel.__dict__.get("subclient")
            if listening and listening.health_check_response_counter >= MISSED_MOST:
                listening.health_check_response_counter = 0
                raise ConnectionError("Redis did not answer the connection for remote control in time")
        super().maybe_check_subclient_health()

    @property
    def fds(self) -> dict[int, Any]:
        return {**self._fd_to_chan, **self.bells}


class Transport(stock.Transport):
    """What ``redis://`` and ``rediss://`` mean, unless ``CELERY_BROKER_TRANSPORT=redis`` asks for kombu's."""

    Channel = Channel
    cycle: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        self.cycle.loop = loop
        self.cycle.forget = loop.remove
        super().register_with_event_loop(connection, loop)


def install() -> None:
    """For all addresses of Redis, by their schemes.

    A transport that is set by its path is forgotten when a connection falls back on another address, and takes
    ``rediss://`` for an address without TLS.
    """
    for scheme in ("redis", "rediss"):
        TRANSPORT_ALIASES[scheme] = f"{__name__}:Transport"
        _transport_cache.pop(scheme, None)


# --- Small things ------------------------------------------------------------------------------------------


def by_queue(pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """(queue, its tags) of pairs of queue and tag."""
    found: dict[str, list[str]] = {}
    for queue, tag in pairs:
        found.setdefault(queue, []).append(tag)
    return iter(found.items())


def readable(raw: bytes) -> dict[str, Any] | None:
    """The message, if it is one; but integers of more than 64 bits are not what they were."""
    for loads in (orjson.loads, json.loads):  # the second one reads a NaN, too
        try:
            message = loads(raw)
            message["properties"]["delivery_tag"]
        except (ValueError, TypeError, KeyError):
            continue
        return message
    logger.critical("dropped from a queue, because it is no message of Celery's: %.500r", raw)
    return None


def exactly(raw: bytes, tag: str) -> dict[str, Any]:
    """The message of one that is readable, with a delivery tag of its own."""
    message = json.loads(raw)
    message["properties"]["delivery_tag"] = tag
    return message
