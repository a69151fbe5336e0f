"""Redis says itself what it was given: a receipt is written there with the message, both or neither.

So nothing is written to Postgres a second time when a new job is published: the reconciler, a few seconds later, asks
for the receipts of those that nobody has claimed until then. Who died between the commit and Redis left none; a Redis
that was wiped or thrown back has lost the receipt with the message.

A receipt is for the first publication of a job alone. What is to be published again, for whatever reason, has a token
by then, and is not asked for.
"""

import time
from collections.abc import Iterable
from itertools import chain
from typing import Any

#: A sorted set: id of a job, or of a batch -> when it was given to Redis.
KEY = "celeriac.receipts"
#: Seconds for which they are kept. Longer than the reconciler takes to come by, or its jobs are delivered twice.
KEPT = 300


def is_for(job: Any) -> bool:
    """Whether it has been published once at most."""
    return not job.token and not job.retries


def commands(names: Iterable[str]) -> list[tuple[Any, ...]]:
    """What writes receipts of these names; in the transaction that has their messages."""
    now = time.time()
    return [("ZADD", KEY, *chain.from_iterable((now, name) for name in names))]


def throw_away_old(client: Any) -> None:
    """By a command of its own: a full Redis refuses those that come with messages."""
    client.zremrangebyscore(KEY, 0, time.time() - KEPT)


def among(client: Any, names: Iterable[str]) -> set[str]:
    """Those of ``names`` that Redis was given."""
    asked = list(names)
    return {name for name, at in zip(asked, client.zmscore(KEY, asked), strict=True) if at} if asked else set()
