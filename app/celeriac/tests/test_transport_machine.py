"""Whatever is sent, fetched, acknowledged, given back, cut off and killed, in whatever order: each message is once in
Redis until it is acknowledged, by who has it, and comes out in its order."""

import json
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from celeriac import transport
from celeriac.transport import INBOXES, index_key, unacked_key

QUEUE = "q"


class Machine(RuleBasedStateMachine):
    """Two workers, one of which may be killed and replaced; ``broker`` is set by the test."""

    broker: Any

    @initialize()
    def start(self):
        self.published = 0
        #: What waits, the next one last; worker -> tag -> message; what is acknowledged, and Redis not told.
        self.waits: list[int] = []
        self.inbox: dict[int, list[int]] = {0: [], 1: []}
        self.held: list[dict[str, int]] = [{}, {}]
        self.untold: list[dict[str, int]] = [{}, {}]
        #: What dead workers held, and what is in their inboxes.
        self.orphans: dict[str, int] = {}
        self.lost_inbox: list[int] = []
        self.connections = [self.connect(), self.connect()]
        self.client = self.channel(0)._create_client()
        self.client.flushall()

    def connect(self):
        connection = self.broker.connection()
        channel = connection.channel()
        channel.connection.cycle.loop = True  # an event loop turns: acknowledgements wait for the next fetch
        channel._queue_cycle.update([QUEUE])
        return connection, channel

    def channel(self, worker):
        return self.connections[worker][1]

    def as_process(self, worker):
        """Each worker is a process of its own name."""
        transport._process = f"worker-{worker}-{id(self.channel(worker))}"

    @rule(count=st.integers(1, 30))
    def publish(self, count):
        for _ in range(count):
            self.published += 1
            message = {
                "body": "",
                "headers": {"id": self.published},
                "properties": {"delivery_tag": "x", "delivery_info": {}},
            }
            self.client.lpush(QUEUE, json.dumps(message))
            self.waits.insert(0, self.published)

    @rule(worker=st.integers(0, 1))
    def ring(self, worker):
        """An idle worker's bell moves one message to its inbox."""
        self.as_process(worker)
        inbox = transport.inbox_key(QUEUE)
        if self.client.lmove(QUEUE, inbox, "RIGHT", "RIGHT"):
            self.client.zadd(INBOXES, {f"{QUEUE}\n{inbox}": 2e9})
            self.inbox[worker].append(self.waits.pop())

    @rule(worker=st.integers(0, 1), room=st.integers(1, 25))
    def fetch(self, worker, room):
        self.as_process(worker)
        inbox = self.inbox[worker]
        got = self.channel(worker).fetch([QUEUE], room)
        took = [inbox.pop() for _ in range(min(room, len(inbox)))]
        took += [self.waits.pop() for _ in range(min(room - len(took), len(self.waits)))]
        if len(took) == room:  # what is too much in the inbox goes back to where it came from
            self.waits += inbox
            inbox.clear()
        assert [each.message["headers"]["id"] for each in got] == took
        self.held[worker] |= {each.tag: each.message["headers"]["id"] for each in got}
        self.untold[worker].clear()

    @rule(worker=st.integers(0, 1), some=st.randoms(use_true_random=False))
    def acknowledge(self, worker, some):
        for tag in some.sample(sorted(self.held[worker]), some.randint(0, len(self.held[worker]))):
            self.channel(worker).acknowledge(tag)
            self.channel(worker).acknowledge(tag)  # once more changes nothing
            self.untold[worker][tag] = self.held[worker].pop(tag)

    @rule(worker=st.integers(0, 1))
    def flush(self, worker):
        self.channel(worker).flush()
        self.untold[worker].clear()

    @rule(worker=st.integers(0, 1), some=st.randoms(use_true_random=False))
    def give_back(self, worker, some):
        tags = sorted(self.held[worker])
        tags = tags[some.randint(0, len(tags)) :]  # the last ones, as a settled batch does
        self.channel(worker).restore(tags, "RPUSH")
        self.waits += [self.held[worker].pop(tag) for tag in tags][::-1]

    @rule(worker=st.integers(0, 1))
    def kill(self, worker):
        """What it held, and had not told, is orphaned; what is in its inbox, too."""
        self.orphans |= self.held[worker] | self.untold[worker]
        self.as_process(worker)
        self.client.zadd(INBOXES, {f"{QUEUE}\n{transport.inbox_key(QUEUE)}": 0}, xx=True)
        self.lost_inbox = [*self.lost_inbox, *self.inbox[worker]]
        self.held[worker], self.untold[worker], self.inbox[worker] = {}, {}, []
        connection, channel = self.connections[worker]
        channel.queue_of.clear()
        channel.acknowledged.clear()
        connection.release()
        self.connections[worker] = self.connect()

    @precondition(lambda self: bool(self.orphans or self.lost_inbox))
    @rule(worker=st.integers(0, 1))
    def time_passes(self, worker):
        """The visibility timeout of those who are dead; who is alive renews."""
        for alive in (0, 1):
            self.channel(alive).renew()
        if self.orphans:
            self.client.zadd(index_key(QUEUE), dict.fromkeys(self.orphans, 0))
        self.channel(worker)._active_queues = [QUEUE]
        self.channel(worker).restore_silent()
        self.waits = self.listed()[::-1]  # in front, in no order that we promise between workers
        self.orphans, self.lost_inbox = {}, []

    def listed(self):
        return [json.loads(raw)["headers"]["id"] for raw in self.client.lrange(QUEUE, 0, -1)][::-1]

    @invariant()
    def each_message_is_once_in_redis(self):
        if not hasattr(self, "client"):
            return
        inboxes = self.client.keys("inbox.*")
        found = [
            json.loads(raw)["headers"]["id"] for key in (QUEUE, *inboxes) for raw in self.client.lrange(key, 0, -1)
        ]
        found += [json.loads(raw.partition(b"\n")[2])["headers"]["id"] for raw in self.client.hvals(unacked_key(QUEUE))]
        known = [*self.waits, *self.inbox[0], *self.inbox[1], *self.orphans.values(), *self.lost_inbox]
        known += [each for of in (*self.held, *self.untold) for each in of.values()]
        assert sorted(found) == sorted(known)
        assert self.client.zcard(index_key(QUEUE)) == self.client.hlen(unacked_key(QUEUE))

    def teardown(self):
        for connection, channel in getattr(self, "connections", []):
            channel.queue_of.clear()
            channel.acknowledged.clear()
            connection.release()


def test_each_message_is_in_redis_once_until_it_is_acknowledged(broker):
    class OnThisBroker(Machine):
        pass

    OnThisBroker.broker = broker
    before = transport._process
    try:
        run_state_machine_as_test(
            OnThisBroker, settings=settings(max_examples=60, stateful_step_count=40, deadline=None)
        )
    finally:
        transport._process = before
