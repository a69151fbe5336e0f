"""A message that was prepared is Celery's own, key by key; so is the event, and so are the signals."""

import json
import logging
import pickle
import signal
import socket
import sys
import threading
import time
from base64 import b64decode
from contextlib import contextmanager
from typing import Any
from unittest.mock import Mock
from uuid import UUID, uuid4

import hiredis
import pytest
from celery import Celery, signals
from celery._state import _task_stack
from celery.app.task import Task as StockTask
from celery.contrib.django.task import DjangoTask
from celery.exceptions import SoftTimeLimitExceeded
from celery.result import AsyncResult
from celery.utils.saferepr import saferepr
from django.test import override_settings
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from kombu import Connection
from kombu.exceptions import EncodeError, OperationalError
from redis.exceptions import ResponseError

from celeriac import lines, send
from celeriac.broker import PATIENCE, publisher
from celeriac.worker import logs
from tests.tasks import durable, echo, work
from tests.waiting import eventually

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=6,
)


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def both(broker, args, kwargs):
    """What is in the queue after Celery has sent the task, and after we have."""
    task = echo._get_current_object()
    for kind in (DjangoTask, type(task)):
        kind.apply_async(task, args, kwargs, "the-id")
        message = json.loads(broker.client.rpop("default"))
        message["properties"].pop("delivery_tag")
        message["body"] = b64decode(message["body"])
        yield message


@pytest.fixture
def redis(app, broker):
    with broker.connection() as connection:
        broker.client = connection.default_channel.client
        echo.typing, before = False, echo.typing
        yield broker
        echo.typing = before


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    args=st.lists(VALUES, max_size=3).map(tuple), kwargs=st.dictionaries(st.text("xyz", min_size=1), VALUES, max_size=2)
)
@example(args=(2**70, float("nan"), "x" * 3000), kwargs={})
@example(args=("it's \\ \n ✓",), kwargs={"x": [1] * 500})
def test_the_message_is_celerys(redis, args, kwargs):
    stock, ours = both(redis, args, kwargs)
    assert ours == stock


def test_a_task_that_sends_one_is_its_parent(redis):
    work.push_request(id="parent", root_id="root", called_directly=False, children=[], delivery_info={})
    _task_stack.push(work)
    try:
        stock, ours = both(redis, (1,), {})
        assert [child.id for child in work.request.children] == ["the-id", "the-id"]
    finally:
        _task_stack.pop()
        work.pop_request()
    assert ours == stock
    assert (ours["headers"]["parent_id"], ours["headers"]["root_id"]) == ("parent", "root")


def test_who_listens_to_the_signals_hears_of_each_and_may_change_the_headers(redis):
    heard: list[tuple] = []

    def before(sender, headers, **kwargs):
        headers["x"] = "changed"
        heard.append(("before", sender, sorted(kwargs)))

    def after(sender, headers, **kwargs):
        heard.append(("after", sender, headers["x"], sorted(kwargs)))

    signals.before_task_publish.connect(before)
    signals.after_task_publish.connect(after)
    try:
        stock, ours = both(redis, (1,), {})
    finally:
        signals.before_task_publish.disconnect(before)
        signals.after_task_publish.disconnect(after)
    assert ours == stock
    assert ours["headers"]["x"] == "changed"
    assert heard[:2] == heard[2:]


@pytest.mark.parametrize("place", [(StockTask, "apply_async"), (Celery, "send_task")], ids=lambda place: place[1])
def test_who_puts_a_function_in_the_place_of_celerys_is_asked(redis, monkeypatch, place):
    """A tracer that adds its headers to every message, say."""
    real, asked = getattr(*place), []

    def traced(*args, **kwargs):
        asked.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(*place, traced)
    monkeypatch.setattr(send, "_known", {})
    echo.delay(1)

    assert len(asked) == 1


def test_the_event_is_celerys(redis):
    with redis.connection() as connection:
        watching = connection.default_channel.client.pubsub()
        watching.psubscribe("*celeryev*")
        assert len(list(both(redis, (1,), {}))) == 2
        stock, ours = (event(eventually(lambda: watching.get_message(True, timeout=0.1))) for _ in range(2))
        watching.close()
    assert ours == stock


def event(message):
    outer = json.loads(message["data"])
    body = json.loads(b64decode(outer.pop("body")))
    outer["properties"].pop("delivery_tag")
    for name in ("timestamp", "clock"):
        assert body.pop(name)
    return message["channel"], outer, body


def test_many_are_sent_in_one_round_trip_and_in_their_order(redis, monkeypatch):
    ids = echo.delay_many([[number] for number in range(2500)])

    messages = [json.loads(raw) for raw in redis.client.lrange("default", 0, -1)][::-1]
    assert [message["headers"]["id"] for message in messages] == ids
    assert [json.loads(b64decode(message["body"]))[0] for message in messages] == [[n] for n in range(2500)]


def test_arguments_that_the_task_does_not_take_are_refused_at_the_call(app):
    with pytest.raises(TypeError):
        work.delay()
    with pytest.raises(TypeError):
        durable.delay_many([["only one"]])


@contextmanager
def changed_in_the_app(app):
    app.conf.task_always_eager = True
    try:
        yield
    finally:
        del app.conf.changes["task_always_eager"]


def test_a_test_suite_may_run_tasks_eagerly(app):
    assert send.sender_of(echo._get_current_object())
    with override_settings(CELERY_TASK_ALWAYS_EAGER=True):
        assert echo.delay(1).get() == 1
    with changed_in_the_app(app):
        assert echo.delay(2).get() == 2
    assert send.sender_of(echo._get_current_object())


def test_prepared_messages_can_be_switched_off(app, redis):
    with override_settings(PREPARED_MESSAGES=False):
        assert send.sender_of(echo._get_current_object()) is None
        echo.delay(1)
        assert len(echo.delay_many([[2], [3]])) == 2
    assert redis.client.llen("default") == 3


def test_what_has_options_goes_celerys_way(app, redis):
    for options in ({"countdown": 5}, {"priority": 3}, {"expires": 60}, {"link": echo.s()}, {"headers": {"x": 1}}):
        echo.apply_async((1,), **options)
    assert sum(redis.client.llen(key) for key in redis.client.keys("default*")) == 5


def test_an_option_that_says_no_is_one(app, redis, monkeypatch):
    monkeypatch.setattr(echo._get_current_object(), "ignore_result", True)
    echo.apply_async((1,), ignore_result=False)
    echo.delay(1)
    asked, usual = (json.loads(raw)["headers"]["ignore_result"] for raw in redis.client.lrange("default", 0, -1)[::-1])
    assert (asked, usual) == (False, True)


def test_an_argument_that_is_no_json_is_refused_as_celery_does(app, redis):
    with pytest.raises(EncodeError):
        echo.delay(object())


def test_while_redis_is_away_the_call_says_so_as_celerys_does(app, broker):
    broker.stop()
    with pytest.raises(OperationalError):
        echo.delay(1)


def test_an_error_of_redis_is_raised_and_the_next_call_is_sent(app, redis):
    with pytest.raises(ResponseError), publisher(app):
        publisher(app).execute([("SET", "text", "x"), ("LPUSH", "text", "y"), ("LPUSH", "default", "z")])
    redis.client.delete("default")

    assert echo.delay(1).id == json.loads(redis.client.rpop("default"))["headers"]["id"]


def test_a_time_limit_while_redis_answers_leaves_no_answer_to_the_next_call(app, redis, monkeypatch):
    class Interrupted:
        def recv(self, size):
            raise SoftTimeLimitExceeded

        def __getattr__(self, name):
            return getattr(publisher(app).wire.real, name)

    echo.delay(1)
    wire = publisher(app).wire
    wire.real, wire._sock = wire._sock, Interrupted()
    with pytest.raises(SoftTimeLimitExceeded):
        echo.delay(2)
    redis.client.delete("default")

    with publisher(app), pytest.raises(ResponseError):
        publisher(app).execute([("LPUSH", "default")])
    assert echo.delay(3).id == json.loads(redis.client.rpop("default"))["headers"]["id"]


def test_a_connection_that_redis_closed_is_made_anew_before_anything_is_sent(app, redis, monkeypatch):
    monkeypatch.setattr("celeriac.broker.FRESH", 0.0)
    echo.delay(1)
    redis.client.delete("default")
    redis.client.client_kill_filter(_type="normal", skipme=True)

    with publisher(app):
        publisher(app).execute([("LPUSH", "default", "x")], wait=False)
    eventually(lambda: redis.client.lrange("default", 0, -1) == [b"x"])
    redis.client.delete("default")
    redis.client.client_kill_filter(_type="normal", skipme=True)
    with publisher(app):
        publisher(app).execute([("LPUSH", "default", "y")])

    assert redis.client.lrange("default", 0, -1) == [b"y"]


def test_an_answer_that_nobody_waited_for_fails_no_other_call(app, redis):
    with publisher(app):
        publisher(app).execute([("LPUSH", "default")], wait=False)
        publisher(app).execute([("LPUSH", "default", "x")])

    assert redis.client.lrange("default", 0, -1) == [b"x"]


def test_a_result_is_celerys_and_whoever_waits_for_it_is_called(app, redis):
    sent = echo.delay(1)
    ours: list[Any] = []
    celerys: list[Any] = []

    again = pickle.loads(pickle.dumps(sent))
    assert again == sent == AsyncResult(sent.id)
    assert again.backend is app.backend
    for result, heard in ((again, ours), (AsyncResult(sent.id, app=app), celerys)):
        result.then(heard.append)
        result.on_ready(result)
    assert ours == [again]
    assert celerys == [again]
    with pytest.raises(ValueError, match="valid id"):
        app.AsyncResult(None)


def test_a_redis_that_does_not_answer_is_waited_for_as_long_as_said_and_not_longer(app, broker):
    echo.delay(1)
    broker.process.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="Redis does not answer in time"), publisher(app):
            publisher(app).execute([("LPUSH", "default", "x")])
        assert PATIENCE <= time.monotonic() - began < 10 * PATIENCE
    finally:
        broker.process.send_signal(signal.SIGCONT)


def test_a_call_soon_after_redis_came_back_is_sent(app, broker):
    echo.delay(1)
    broker.stop()
    broker.start()

    assert echo.delay(2).id == json.loads(broker.command("LINDEX", "default", 0))["headers"]["id"]


def test_many_large_messages_may_take_longer_than_redis_may_take_to_answer(app, redis, monkeypatch):
    """What lies between reads them slowly, and is never silent for as long as Redis may be."""
    command: Any = ("LPUSH", "default", *[b"x" * 100_000] * 150)
    echo.delay(1)
    redis.client.delete("default")
    wire = publisher(app).wire
    ours, theirs = socket.socketpair()
    beyond = wire._sock
    ours.settimeout(2)
    monkeypatch.setattr(wire, "connect", lambda: setattr(wire, "_sock", ours))
    publisher(app)._connect_wire()

    def pass_on():
        left = len(hiredis.pack_command(command))
        while left:
            data = theirs.recv(65536)
            beyond.sendall(data)
            left -= len(data)
            time.sleep(0.02)
        theirs.sendall(beyond.recv(65536))

    threading.Thread(target=pass_on, daemon=True).start()
    began = time.monotonic()
    with theirs, publisher(app):
        publisher(app).execute([command])
        assert time.monotonic() - began > 2
        assert not publisher(app).unread
    assert redis.client.llen("default") == 150


def test_a_time_limit_while_it_connects_is_no_end_of_sending(app, redis, monkeypatch):
    publisher(app).close()
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "ensure_connection", Mock(side_effect=SoftTimeLimitExceeded))
        with pytest.raises(SoftTimeLimitExceeded):
            echo.delay(1)

    assert echo.delay(2).id == json.loads(redis.client.rpop("default"))["headers"]["id"]


def test_a_log_that_cannot_be_written_sends_no_task_twice(app, redis, monkeypatch):
    monkeypatch.setattr(lines, "as_json", True)
    monkeypatch.setattr(sys, "stderr", Mock(write=Mock(side_effect=OSError(28, "No space left on device"))))

    echo.delay(1)
    echo.delay_many([[2]])

    assert redis.client.llen("default") == 2


def test_a_tasks_id_need_not_be_a_text(app, redis):
    task_id = uuid4()
    assert echo.apply_async((1,), task_id=task_id).id == task_id


def test_an_argument_that_is_half_a_character_is_sent_with_its_event(app, redis):
    echo.delay("\udcff.txt")

    assert json.loads(b64decode(json.loads(redis.client.rpop("default"))["body"]))[0] == ["\udcff.txt"]


def test_messages_that_are_sent_together_have_ids_and_tags_of_their_own(redis):
    ids = echo.delay_many([[number] for number in range(3000)])
    messages = [json.loads(raw) for raw in redis.client.lrange("default", 0, -1)]

    assert len(set(ids)) == len({message["properties"]["delivery_tag"] for message in messages}) == 3000
    assert all(UUID(each).version == 4 and str(UUID(each)) == each for each in ids)


def test_nobody_listens_while_messages_are_compared(app):
    """So that it is the text with its gaps that the tests above compare."""
    assert logs.listens_alone()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.lists(st.integers() | st.floats() | st.booleans() | st.none() | st.text(), max_size=3).map(tuple)))
def test_arguments_that_are_written_together_are_what_each_is_by_itself(app, calls):
    sender = send.sender_of(echo._get_current_object())
    assert sender
    assert list(sender.all_written(calls)) == [sender.written(args) for args in calls]


@given(st.lists(st.integers() | st.floats() | st.booleans() | st.none(), max_size=20).map(tuple))
def test_the_short_way_to_say_what_arguments_are_says_the_same(args):
    assert not all(type(each) in send.PLAIN for each in args) or repr(args) == saferepr(args, 10_000)


def test_what_a_task_sends_names_that_task_and_not_the_one_before_it():
    context = {"task_id": "this one", "parent_task_id": "the one before", "request_id": "a request"}

    assert logs.handed_on(context) == {"parent_task_id": "this one", "request_id": "a request"}
    assert context["task_id"] == "this one"
