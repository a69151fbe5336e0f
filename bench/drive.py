"""Sends a column's tasks, in the column's own environment: ``python -m bench.drive MODULE ACTION OPTIONS``.

MODULE is one of bench/peers: its ``send(number, seconds)`` sends one task; it may have ``send_many(numbers)``,
``prepare()`` (once, before anything else) and ``connect()``. Of asynchronous clients these are coroutines.
OPTIONS and the answer are JSON.
"""

import asyncio
import inspect
import json
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from importlib import import_module
from types import ModuleType
from typing import Any

Wait = Callable[[float], Awaitable[None]]


async def prepare(peer: ModuleType, wait: Wait) -> None:
    if hasattr(peer, "prepare"):
        await result(peer.prepare())


async def enqueue(peer: ModuleType, wait: Wait, first: int, count: int) -> float:
    """One by one; tasks a second. The first one connects, and is not timed."""
    await result(peer.send(first, 0.0))
    send, awaited = peer.send, inspect.iscoroutinefunction(peer.send)
    began = time.perf_counter()
    for number in range(first + 1, first + count):
        answer = send(number, 0.0)
        if awaited:
            await answer
    return (count - 1) / (time.perf_counter() - began)


async def batch(peer: ModuleType, wait: Wait, first: int, count: int) -> float:
    """As many as there are in calls of a thousand; tasks a second. The first one connects, and is not timed."""
    await result(peer.send(first, 0.0))
    began = time.perf_counter()
    for start in range(first + 1, first + count, 1000):
        await result(peer.send_many(range(start, min(start + 1000, first + count))))
    return (count - 1) / (time.perf_counter() - began)


async def pace(
    peer: ModuleType, wait: Wait, first: int, count: int, rate: float, long_every: int = 0, seconds: float = 0.0
) -> list[float]:
    """At a steady rate, one of ``long_every`` taking ``seconds``; when each was sent, on the machine's clock."""
    began, sent = time.monotonic(), []
    for place in range(count):
        early = began + place / rate - time.monotonic()
        if early > 0:
            await wait(early)
        long = long_every and place % long_every == 0
        sent.append(time.monotonic())
        await result(peer.send(first + place, seconds if long else 0.0))
    return sent


async def result(answer: Any) -> Any:
    return await answer if inspect.isawaitable(answer) else answer


# --- With an event loop, or without ------------------------------------------------------------------------------


def run(peer: ModuleType, action: Callable[..., Coroutine[Any, Any, Any]], options: dict[str, Any]) -> Any:
    if inspect.iscoroutinefunction(peer.send):
        return asyncio.run(connected(peer, action(peer, asyncio.sleep, **options)))
    # Django's database refuses to work below an event loop. A coroutine that never waits needs none.
    try:
        connected(peer, action(peer, sleep, **options)).send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("a synchronous client waited")


async def connected(peer: ModuleType, work: Coroutine[Any, Any, Any]) -> Any:
    if hasattr(peer, "connect"):
        await result(peer.connect())
    return await work


async def sleep(seconds: float) -> None:
    time.sleep(seconds)


if __name__ == "__main__":
    actions = {action.__name__: action for action in (prepare, enqueue, batch, pace)}
    answer = run(import_module(sys.argv[1]), actions[sys.argv[2]], json.loads(sys.argv[3]))
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
