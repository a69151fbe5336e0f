"""The task of both of TaskIQ's brokers."""

import asyncio

from bench.effects import note


async def noop(number: int, seconds: float) -> int:
    if seconds:
        await asyncio.sleep(seconds)
    note(number)
    return number
