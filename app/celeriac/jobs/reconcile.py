"""Compares the unfinished rows with what Redis holds and with who is alive, and publishes what is in neither.

Runs in the beat that leads, every few seconds; two at once do no harm, because a second delivery is dropped.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

from celery import Celery
from django.db import connection
from django.utils import timezone

from celeriac import transport
from celeriac.jobs import batches, receipts
from celeriac.jobs.enqueue import PARK, note, publish, publisher
from celeriac.jobs.execution import LEASE, expired
from celeriac.models import Job

logger = logging.getLogger(__name__)

#: Seconds between two looks.
EVERY = 3.0
#: Seconds that a message which left its process may be on its way before it is looked for.
ON_ITS_WAY = 5
#: Seconds between two scans of Redis without a suspicion, and the longest queues they are made for.
SCAN_EVERY, SCAN_UP_TO = 60.0, 50_000
#: Messages in one round trip; jobs published in one look.
CHUNK, MOST = 1000, 20_000
#: Seconds of one look that go into unfolding batches, of some 30 ms each; the beat has schedules to keep.
UNFOLDING = 1.0
#: Counted up at every look. Wiped, or thrown back to an older value, it is not what it was.
SENTINEL = "celeriac.sentinel"

#: The id in a message's headers; much quicker than to parse the whole of it.
TASK_ID = re.compile(rb'"id": ?"([^"]+)"')

#: In two parts, so that each has its index: with a million rows one query for both reads them all.
DUE = """
(SELECT * FROM celeriac_job
    WHERE state = 'waiting' AND published_at IS NULL AND due_at <= now() + %(park)s * interval '1 second'
        AND created_at < now() - %(on_its_way)s * interval '1 second'
    ORDER BY due_at LIMIT %(most)s)
UNION ALL
(SELECT * FROM celeriac_job WHERE state = 'returned' AND published_at IS NULL AND lease_until IS NULL LIMIT %(most)s)"""

#: Batches that nobody has unfolded yet, and whether they are to have reached Redis by now.
FOLDED = """
SELECT id, created_at < now() - %s * interval '1 second' FROM celeriac_batch ORDER BY created_at LIMIT 1000"""

# The token is counted up, because a receipt for the publication that was lost may be there still.
LOST = """
UPDATE celeriac_job SET published_at = NULL, token = token + 1
WHERE (state = 'waiting' OR (state = 'returned' AND lease_until IS NULL)) AND published_at < %s
    AND NOT EXISTS (SELECT FROM in_redis WHERE in_redis.id = celeriac_job.id)
RETURNING id"""


class Reconciler:
    """What one leader knows from one look to the next."""

    def __init__(self, app: Celery, alive: Callable[[], object] = bool) -> None:
        """``alive`` is called every now and then while a look takes long."""
        self.app, self.alive = app, alive
        self.looked_at = 0.0
        self.scanned_at = time.monotonic()
        self.scan_again_at = math.inf
        #: What Redis said last: its run id, and the sentinel.
        self.redis: tuple[str, int] | None = None
        #: Since when Postgres has answered without a break; leases could not be renewed before.
        self.postgres_since: float | None = None
        self.suspicious = True  # of what was before this leader

    def look(self) -> None:
        """One look, if it is time for one. Raises what Postgres and Redis raise when they are away."""
        now = time.monotonic()
        if now - self.looked_at < EVERY:
            return
        self.looked_at = now
        try:
            self.expire_leases()
        except Exception:
            self.postgres_since = None
            raise
        self.postgres_since = self.postgres_since or now
        self.watch_redis()
        if self.suspicious:
            self.find_lost()
            self.scan_again_at = now + 2 * ON_ITS_WAY  # what was on its way to a Redis that lost it
        elif now > self.scan_again_at or self._may_scan():
            self.find_lost()
            self.scan_again_at = math.inf
        self.unfold()
        self.publish_due()
        receipts.throw_away_old(publisher().channel.client)  # last: after a day without a beat all are old

    def expire_leases(self) -> None:
        """Jobs whose worker gives no sign of life wait again; those that killed theirs too often have failed."""
        if self.postgres_since is None or time.monotonic() - self.postgres_since < LEASE:
            return
        if count := expired():
            logger.warning("%d jobs are taken from workers that died", count)
            self.suspicious = True  # what such a worker had fetched may be nowhere (BRPOP, then death)

    def watch_redis(self) -> None:
        with publisher().batch():  # connects, and closes a connection that failed
            client = publisher().channel.client
            said = (client.info("server")["run_id"], client.incr(SENTINEL))
        if self.redis and (said[0] != self.redis[0] or said[1] <= self.redis[1]):  # another one may count, too
            logger.warning("Redis was restarted, wiped or thrown back: looking for messages that it lost")
            self.suspicious = True
        self.redis = said

    def _may_scan(self) -> bool:
        """Now and then without a reason, when it costs little and somebody waits for long."""
        if time.monotonic() - self.scanned_at < SCAN_EVERY:
            return False
        self.scanned_at = time.monotonic()
        old = timezone.now() - timedelta(seconds=SCAN_EVERY)
        waits = Job.objects.filter(state=Job.State.WAITING, published_at__lt=old).exists()
        return waits and sum(publisher().channel.client.llen(key) for key in self._queues()) <= SCAN_UP_TO

    def find_lost(self) -> None:
        """Mark as not published what Redis does not hold. Its ids go through a table, so memory stays flat."""
        before = timezone.now() - timedelta(seconds=ON_ITS_WAY)
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMPORARY TABLE IF NOT EXISTS in_redis (id text)")
            cursor.execute("TRUNCATE in_redis")
            for ids in self._ids_in_redis():
                self.alive()
                cursor.execute("INSERT INTO in_redis SELECT unnest(%s::text[])", [ids])
            cursor.execute("ANALYZE in_redis")
            cursor.execute(LOST, [before])
            lost = cursor.rowcount
        if lost:
            logger.warning("%d jobs were in Redis and are not any more: they are published again", lost)
        self.suspicious = False
        self.scanned_at = time.monotonic()

    def unfold(self) -> None:
        """Make jobs of batches that Redis has a receipt for, and of those that did not get there."""
        until = time.monotonic() + UNFOLDING
        with connection.cursor() as cursor:
            cursor.execute(FOLDED, [ON_ITS_WAY])
            late = dict(cursor.fetchall())
        given = receipts.among(publisher().channel.client, map(batches.receipt_of, late))
        for batch, is_late in late.items():
            published = batches.receipt_of(batch) in given
            if (published or is_late) and time.monotonic() < until:
                batches.unfold([batch], published)
                self.alive()

    def publish_due(self) -> None:
        """What is due, and whose process did not bring it to Redis."""
        published = 0
        while published < MOST:
            jobs = list(Job.objects.raw(DUE, {"park": PARK, "on_its_way": ON_ITS_WAY, "most": CHUNK}))
            there = in_redis(jobs)
            note(list(there))
            published += len(there) + publish(job for job in jobs if job.id not in there)
            self.alive()
            if len(jobs) < CHUNK:
                break
        if published:
            logger.info("%d jobs published", published)

    # --- What Redis holds ------------------------------------------------------------------------------------

    def _queues(self) -> list[str]:
        channel = publisher().channel
        return [
            channel._q_for_pri(name, priority) for name in self.app.amqp.queues for priority in channel.priority_steps
        ]

    def _ids_in_redis(self) -> Iterator[list[str]]:
        client, channel = publisher().channel.client, publisher().channel
        for key in self._queues():
            yield from ids_in_list(client, key)
        # In the order in which a message moves on, so that none is missed.
        for member in client.zrange(transport.INBOXES, 0, -1):
            yield from ids_in_list(client, member.partition(b"\n")[2])
        for key in (channel.unacked_key, *map(transport.unacked_key, self.app.amqp.queues)):
            cursor: int = 0
            while True:
                cursor, messages = client.hscan(key, cursor, count=CHUNK)
                yield ids_of(messages.values())
                if not cursor:
                    break


def in_redis(jobs: list[Job]) -> set[str]:
    """Ids of those new ones whose process brought them, or their batch, to Redis, as its receipt says."""
    names = {job.id: {job.id, batches.receipt_of(batches.batch_of(job.id))} for job in jobs if receipts.is_for(job)}
    given = receipts.among(publisher().channel.client, set().union(*names.values()))
    return {job_id for job_id, its in names.items() if its & given}


def ids_in_list(client: Any, key: Any) -> Iterator[list[str]]:
    """From the head, where new ones come in: what moves meanwhile is seen twice, and never missed."""
    start = 0
    while messages := client.lrange(key, start, start + CHUNK - 1):
        yield ids_of(messages)
        start += CHUNK


def ids_of(messages: Any) -> list[str]:
    return [found[1].decode() for message in messages if (found := TASK_ID.search(message))]
