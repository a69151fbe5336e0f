"""What was executed: one record for each execution, appended to the file EFFECTS by the task itself.

Every peer's task is ``work``, or ``work_async``, so this needs nothing but Python. A call costs about a microsecond.
"""

import asyncio
import os
import struct
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

#: The task's number, and when it ran on the clock that all processes of a machine share.
RECORD = struct.Struct("<qd")
#: Seconds without an execution after which no more is expected.
PATIENCE = 60.0


def note(number: int) -> None:
    os.write(file(os.environ["EFFECTS"]), RECORD.pack(number, time.monotonic()))


def work(number: int, seconds: float) -> int:
    """What every column's task does, and returns."""
    if seconds:
        time.sleep(seconds)
    note(number)
    return number


async def work_async(number: int, seconds: float) -> int:
    if seconds:
        await asyncio.sleep(seconds)
    note(number)
    return number


@cache
def file(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)  # O_APPEND: no record lands in another


class StalledError(Exception):
    """Tasks that were sent are not executed."""


class Effects:
    """The records, read as they come."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.path = path
        self.offset = 0
        #: Number -> when it was executed first.
        self.times: dict[int, float] = {}
        self.doubled = 0
        #: How many different tasks there have to be in the end.
        self.expected = 0

    def read(self) -> int:
        """How many different tasks were executed until now."""
        with self.path.open("rb") as records:
            records.seek(self.offset)
            new = records.read()
        self.offset += len(new)
        for number, moment in RECORD.iter_unpack(new):
            if number in self.times:
                self.doubled += 1
            else:
                self.times[number] = moment
        return len(self.times)

    def wait(self, count: int, check: Callable[[], None], patience: float = PATIENCE) -> None:
        """Until ``count`` different tasks were executed. ``check`` raises when that cannot be any more."""
        self.expected = max(self.expected, count)
        done, since = self.read(), time.monotonic()
        while done < count:
            check()
            if time.monotonic() - since > patience:
                raise StalledError(f"{done} of {count} tasks executed, and none for {patience:g} s")
            time.sleep(0.005)
            now = self.read()
            if now > done:
                done, since = now, time.monotonic()

    def rate(self, first: float, last: float) -> float:
        """Tasks a second between two parts of all, 0 to 1; a worker's start is not what is measured."""
        moments = sorted(self.times.values())
        begin, end = int(len(moments) * first), int(len(moments) * last) - 1
        return (end - begin) / (moments[end] - moments[begin])
