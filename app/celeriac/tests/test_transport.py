"""A message is always in some key, whoever dies; and a stock Celery may share the queues."""

import json
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty
from typing import Any

import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from kombu import Connection, Consumer, Producer, Queue
from kombu.asynchronous import Hub, set_event_loop
from redis import Redis

from celeriac import transport
from celeriac.transport import INBOXES, index_key, unacked_key
from tests.waiting import eventually

QUEUE = Queue("default", routing_key="default")
OTHER = Queue("heavy_tasks", routing_key="heavy_tasks")


@pytest.fixture
def connect(broker):
    """Open connections; ``stock=True`` by kombu's own transport."""
    opened = []

    def connect(stock=False, **options):
        options = {**settings.CELERY_BROKER_TRANSPORT_OPTIONS, **options}
        name = "kombu.transport.redis:Transport" if stock else "celeriac.transport:Transport"
        opened.append(Connection(broker.url, transport=name, transport_options=options))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.release()


@pytest.fixture
def redis(broker):
    with Redis(port=broker.port, decode_responses=True) as client:
        yield client


@pytest.fixture
def _patient_bells(connect, redis, monkeypatch):
    """They are not rung anew while a test lasts, however slow the machine is."""
    monkeypatch.setattr(transport.Bell, "TIMEOUT", 30.0)
    yield
    for client in redis.client_list():
        redis.client_unblock(int(client["id"]))


class Taker(Consumer):
    """Takes messages and keeps them."""

    channel: Any

    def __init__(self, connection, *queues, prefetch=0, **options):
        self.taken: list[Any] = []
        super().__init__(connection, list(queues) or [QUEUE], on_message=self.taken.append, **options)
        self.qos(prefetch_count=prefetch)
        self.consume()

    def take(self, expected=0, seconds=0.3):
        """What came in this time, and in up to ten seconds until so many have come as are expected."""
        before, began = len(self.taken), time.monotonic()
        while (left := began + (seconds if len(self.taken) - before >= expected else 10) - time.monotonic()) > 0:
            with suppress(TimeoutError):
                self.connection.drain_events(timeout=min(left, seconds))
        return [message.payload for message in self.taken[before:]]


def send(connection, *bodies, queue=QUEUE, **options):
    producer = Producer(connection)
    for body in bodies:
        producer.publish(body, routing_key=queue.name, declare=[queue], **options)


def held(redis, queue="default"):
    assert redis.hlen(unacked_key(queue)) == redis.zcard(index_key(queue))
    return redis.hlen(unacked_key(queue))


def waiting(redis, queue="default"):
    """Also what has just rung somebody's bell."""
    return sum(redis.llen(key) for key in (queue, *redis.scan_iter(f"inbox.*.{queue}")))


def silence(redis, queue="default"):
    """As if the visibility timeout had passed without a sign of life."""
    for key in (index_key(queue), INBOXES):
        if members := redis.zrange(key, 0, -1):
            redis.zadd(key, dict.fromkeys(members, 0))


def restore_queues(connection):
    """While nobody consumes, so that no bell takes the first one that is back."""
    channel = connection.channel()
    channel.basic_consume("default", no_ack=False, callback=None, consumer_tag="any")
    channel.restore_silent()
    channel.basic_cancel("any")


def restore(connection):
    for channel in connection.transport.channels:
        channel.restore_silent()


def test_what_is_taken_is_held_in_redis_until_it_is_acknowledged(connect, redis):
    send(connect(), "one", "two", "three")
    taker = Taker(connect())

    assert taker.take(3) == ["one", "two", "three"]
    assert held(redis) == 3
    taker.taken[0].ack()
    assert held(redis) == 2
    taker.taken[1].reject()
    assert held(redis) == 1
    taker.taken[2].requeue()
    assert (held(redis), waiting(redis)) == (0, 1)


@pytest.mark.usefixtures("_patient_bells")
def test_a_message_that_comes_while_nothing_is_there_is_taken_at_once(connect, redis):
    taker = Taker(connect())
    taker.take()  # waits at the bells
    sender = connect()
    threading.Timer(0.2, send, [sender, "now"]).start()
    began = time.monotonic()

    taker.connection.drain_events(timeout=20)

    assert [message.payload for message in taker.taken] == ["now"]
    assert time.monotonic() - began < 10, "sooner than a bell is rung anew"
    assert held(redis) == 1


def test_what_is_delivered_is_given_to_the_pool_before_the_loop_sleeps(connect):
    """The pool writes to its children when it is called at a turn of the loop, before this transport or after it."""
    send(connect(), "one")
    hub = Hub()
    happened: list[Any] = []
    set_event_loop(hub)
    connection = connect()
    taker = Taker(connection)
    taker.on_message = lambda message: happened.append("delivered")
    pools = [partial(happened.append, number) for number in range(10)]
    connection.register_with_event_loop(hub)
    hub.on_tick.update(pools)
    try:
        next(hub.create_loop())
    finally:
        set_event_loop(None)
        hub.close()

    assert set(happened[happened.index("delivered") :]) == {"delivered", *range(10)}


def test_two_threads_that_fetch_do_not_take_each_others_place(connect, redis):
    send(connect(), *range(200))
    takers = [Taker(connect()) for _ in range(4)]
    threads = [threading.Thread(target=taker.take, kwargs={"seconds": 2}) for taker in takers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert sorted(message.payload for taker in takers for message in taker.taken) == list(range(200))
    assert held(redis) == 200


def test_a_prefetch_is_never_exceeded(connect, redis):
    send(connect(), *range(10))
    taker = Taker(connect(), prefetch=3)

    assert taker.take(3) == [0, 1, 2]
    assert (held(redis), waiting(redis)) == (3, 7)
    taker.taken[0].ack()
    assert taker.take(1) == [3]


def test_each_queue_has_its_own_key_of_what_is_in_progress(connect, redis):
    send(connect(), "a", queue=QUEUE)
    send(connect(), "b", "c", queue=OTHER)
    taker = Taker(connect(), QUEUE, OTHER)

    assert sorted(taker.take(3)) == ["a", "b", "c"]
    assert (held(redis, "default"), held(redis, "heavy_tasks")) == (1, 2)


def test_a_full_queue_does_not_starve_the_other(connect):
    send(connect(), *range(50), queue=QUEUE)
    send(connect(), "other", queue=OTHER)
    taker = Taker(connect(), QUEUE, OTHER, prefetch=2)

    for _ in range(3):
        taker.take(2, seconds=0.05)
        for message in taker.taken:
            if not message.acknowledged:
                message.ack()

    assert "other" in [message.payload for message in taker.taken]


def test_priorities_are_kept(connect):
    sender = connect()
    for priority, body in ((9, "later"), (0, "first"), (6, "then")):
        send(sender, body, priority=priority)

    assert Taker(connect()).take(3) == ["first", "then", "later"]


def test_a_message_of_another_priority_rings_too(connect):
    taker = Taker(connect())
    taker.take()
    send(connect(), "low", priority=9)

    assert taker.take(1) == ["low"]


def test_messages_of_a_dead_worker_come_back_once_and_are_marked(connect, redis):
    send(connect(), *range(12))
    dead, alive = Taker(connect()), connect()
    assert dead.take(12) == list(range(12))
    restore_queues(alive)
    assert held(redis) == 12, "it has given signs of life"

    time.sleep(1.1)  # its bells are not heard any more
    silence(redis)
    restore_queues(alive)
    heir = Taker(alive)

    assert heir.take(12) == list(range(12))
    assert all(message.delivery_info["redelivered"] for message in heir.taken)
    assert held(redis) == 12


@pytest.mark.usefixtures("_patient_bells")
def test_a_message_in_an_inbox_comes_back_too(connect, redis):
    sender, dead = connect(), Taker(connect())
    dead.take()  # its bells wait
    transport.rename_process()  # as another one
    send(sender, "rung")  # and nobody looks at what rang
    eventually(lambda: redis.llen("default") == 0)
    alive = connect()
    heir = Taker(alive)

    silence(redis)
    restore(alive)

    assert heir.take(1) == ["rung"]


def test_messages_of_a_fetch_whose_answer_is_lost_come_back(connect, redis, monkeypatch):
    send(connect(), "one", "two")
    taker = Taker(connect(), prefetch=2)

    def answer_is_lost(channel, *arguments, script=transport.Channel.script):
        script(channel, *arguments)
        raise TimeoutError

    with monkeypatch.context() as patched:
        patched.setattr(transport.Channel, "script", answer_is_lost)
        with pytest.raises(TimeoutError):
            taker.channel.turn()
    send(connect(), "three", "four")
    assert taker.take(2) == ["three", "four"]
    assert held(redis) == 4
    for message in taker.taken:
        message.ack()

    silence(redis)
    restore(taker.connection)

    assert taker.take(2) == ["one", "two"]


def test_messages_that_were_fetched_with_one_that_fails_come_back(connect, redis):
    send(connect(), "fails", "two", "three")
    taker = Taker(connect())

    def fails(message):
        raise ConnectionError

    taker.on_message = fails
    with pytest.raises(ConnectionError):
        taker.channel.turn()
    silence(redis)
    taker.channel.renew()
    taker.on_message = taker.taken.append
    restore(taker.connection)

    assert taker.take(2) == ["two", "three"]
    assert held(redis) == 3


def test_a_sign_of_life_keeps_what_is_held(connect, redis):
    send(connect(), "long")
    holder, other = Taker(connect()), Taker(connect())
    holder.take(1)
    silence(redis)

    holder.channel.renew()
    restore(other.connection)

    assert other.take() == []
    assert held(redis) == 1


def test_who_was_silent_for_too_long_cannot_acknowledge_for_its_heir(connect, redis):
    """Stock: the late acknowledgement removes the heir's message, which is lost when the heir dies."""
    send(connect(), "charge")
    frozen, heir = Taker(connect()), Taker(connect())
    frozen.take(1)
    silence(redis)
    restore(heir.connection)
    assert heir.take(1) == ["charge"]

    frozen.taken[0].ack()

    assert held(redis) == 1
    heir.taken[0].ack()
    assert held(redis) == 0


def test_a_consumer_that_is_cancelled_leaves_nothing_behind(connect, redis):
    taker = Taker(connect(), prefetch=1)
    send(connect(), "mine", "rings", "third")
    assert taker.take(1) == ["mine"]
    taker.cancel()
    taker.connection.release()

    assert redis.llen("default") == 3, "what was unacknowledged is back, too"
    assert held(redis) == 0
    assert not list(redis.scan_iter("inbox.*"))


def test_a_message_that_rings_after_the_cancel_goes_back(connect, redis):
    taker = Taker(connect())
    taker.take()
    taker.cancel()  # its bells still wait for a moment
    send(connect(), "late")

    with pytest.raises(TimeoutError):
        taker.connection.drain_events(timeout=1.5)

    assert (redis.llen("default"), held(redis)) == (1, 0)


@pytest.mark.parametrize("stock_takes", [True, False])
def test_a_stock_celery_shares_the_queues(connect, redis, stock_takes):
    send(connect(stock=not stock_takes), {"one": 1}, [], "ü")
    taker = Taker(connect(stock=stock_takes))

    assert taker.take(3) == [{"one": 1}, [], "ü"]
    for message in taker.taken:
        message.ack()
    assert redis.hlen("unacked") == held(redis) == 0


def test_what_a_stock_worker_left_behind_comes_back_after_its_hour(connect, redis):
    send(connect(), "left")
    assert Taker(connect(stock=True)).take(1) == ["left"]
    time.sleep(2)  # until its BRPOP, to which nobody listens any more, takes nothing
    redis.zadd("unacked_index", dict.fromkeys(redis.zrange("unacked_index", 0, -1), time.time() - 3590))
    heir = Taker(connect(unacked_restore_throttle=1))
    heir.channel.qos.restore_visible(interval=1)
    assert heir.take() == []

    redis.zadd("unacked_index", dict.fromkeys(redis.zrange("unacked_index", 0, -1), time.time() - 3610))
    heir.channel.qos.restore_visible(interval=1)

    assert heir.take(1) == ["left"]


def test_what_comes_back_is_what_was_sent(connect, redis):
    """Not one that Lua has parsed: it makes an object of an empty list, and rounds numbers."""
    body = {"empty": [], "none": {}, "number": 12345678901234567890, "float": 0.1, "text": '"delivery_info": {'}
    send(connect(), body, headers={"argsrepr": '"delivery_info": {"redelivered": true'})
    taker = Taker(connect())
    taker.take(1)

    taker.taken[0].requeue()

    assert taker.take(1) == [body]
    assert taker.taken[1].headers == {"argsrepr": '"delivery_info": {"redelivered": true'}
    assert taker.taken[1].delivery_info["redelivered"]


def test_without_acknowledgement_nothing_is_kept(connect, redis):
    send(connect(), "one", "two")

    assert Taker(connect(), no_ack=True).take(2) == ["one", "two"]
    assert held(redis) == 0


def test_one_message_by_direct_access(connect, redis):
    send(connect(), "one")
    channel = connect().channel()

    message = channel.basic_get("default")
    assert (message.payload, held(redis)) == ("one", 1)
    message.ack()
    assert held(redis) == 0
    assert channel.basic_get("default") is None
    send(connect(), "two")
    assert channel.basic_get("default", no_ack=True).payload == "two"
    assert held(redis) == 0
    with pytest.raises(Empty):
        channel._get("default")


def test_a_text_that_is_no_message_stops_nobody(connect, redis, caplog):
    redis.lpush("default", "no message", '{"properties": 1}')
    broken = {"delivery_tag": "1", "delivery_info": {}, "body_encoding": "base64"}
    redis.lpush("default", json.dumps({"body": "not base64", "properties": broken}))
    send(connect(), "good")

    assert Taker(connect()).take(1) == ["good"]
    assert held(redis) == 1
    assert "no message of Celery's" in caplog.text
    assert "cannot be decoded" in caplog.text


def test_thousands_that_a_dead_worker_held_come_back_at_one_look(connect, redis, monkeypatch):
    monkeypatch.setattr(transport, "RESTORING", 10.0)
    send(connect(), *range(1050))
    dead, alive = Taker(connect()), connect()
    eventually(lambda: [dead.take(), held(redis)][1] == 1050)
    silence(redis)

    restore_queues(alive)

    assert (held(redis), waiting(redis)) == (0, 1050)


def test_a_worker_that_stops_gives_back_more_than_lua_can_unpack(connect, redis):
    send(connect(), *range(3))
    channel = connect().channel()
    messages = [channel.basic_get("default") for _ in range(3)]
    tags = [message.delivery_tag for message in messages]
    channel.queue_of |= {f"gone {number}": "default" for number in range(9000)}

    channel.restore([tags[0], *(f"gone {number}" for number in range(9000)), *tags[1:]], "RPUSH")

    assert Taker(connect()).take() == [0, 1, 2]


def test_an_answer_that_nobody_has_read_is_no_silence(connect, redis, monkeypatch):
    taker = Taker(connect())
    taker.take()
    monkeypatch.setattr(transport.Bell, "TIMEOUT", 0.1)
    send(connect(), "one")
    bells = taker.channel.bells.values()
    eventually(lambda: any(transport.select.select([bell.socket], [], [], 0)[0] for bell in bells))
    late = [bell.key for bell in bells if bell.overdue(-100)]

    assert len(late) == len(bells) - 1, "the others do wait"


def test_too_few_connections_are_refused_with_the_way_out(connect):
    with pytest.raises(ImproperlyConfigured, match="max_connections is 3, and a worker needs 4 for each queue"):
        Taker(connect(max_connections=3)).take()


@contextmanager
def full(redis):
    redis.config_set("maxmemory", 1)
    yield
    redis.config_set("maxmemory", 0)


def test_a_full_redis_still_gives_takes_back_and_forgets(connect, redis):
    send(connect(), "one", "two", "three")
    connection = connect()
    with full(redis):
        taker = Taker(connection, prefetch=2)
        assert taker.take(2) == ["one", "two"]
        taker.taken[0].ack()
        assert held(redis) == 1
        taker.channel.renew()
        assert taker.take(1, seconds=1.5) == ["three"], "although no bell rings"
        taker.taken[1].requeue()
        assert waiting(redis) == 1
    assert held(redis) == 1


def test_scripts_that_redis_forgot_are_sent_again(connect, redis):
    send(connect(), "one")
    taker = Taker(connect())
    redis.script_flush()

    assert taker.take(1) == ["one"]
    redis.script_flush()
    taker.taken[0].requeue()
    assert waiting(redis) == 1


def test_a_cut_connection_is_noticed(connect, broker):
    taker = Taker(connect(health_check_interval=0.5))
    taker.take()
    for bell in taker.channel.bells.values():
        bell.waiting_since -= 10

    with pytest.raises(ConnectionError, match="did not answer"):
        taker.connection.transport.cycle.maybe_check_brpop_health()
    send(connect(), "after")
    assert taker.take(1) == ["after"]


# --- Addresses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://x", "rediss://x?ssl_cert_reqs=required", "redis+socket:///tmp/x.sock"])
def test_every_address_of_redis_is_ours_and_with_tls_if_it_says_so(url):
    with Connection(url) as connection:
        assert isinstance(connection.transport, transport.Transport)
        assert bool(connection.ssl) == url.startswith("rediss://")


def test_a_connection_that_falls_back_on_another_address_is_still_ours(broker):
    with Connection(f"redis://127.0.0.1:1/0;{broker.url}") as connection:
        connection.ensure_connection(max_retries=3, interval_start=0)
        assert connection.port == broker.port
        assert isinstance(connection.default_channel, transport.Channel)


def test_a_prefix_for_all_keys_is_refused_with_the_way_out(connect):
    with pytest.raises(ImproperlyConfigured, match="CELERY_BROKER_TRANSPORT=redis"):
        connect(global_keyprefix="mine.").channel()
