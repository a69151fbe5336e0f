"""What a worker's main process and its children both see of the batches that run, without a word between them.

A slot belongs to a batch. The child that runs it says which message it has begun, and writes down how each one ended;
the main process reads that when the child is slow or dead, and may take away what was not begun. Both hold the slot's
lock for that, which the kernel takes from a process that dies.
"""

import fcntl
import mmap
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any

#: Numbers of a slot, and of them: messages that may be begun; the one that is, or -1; those that have ended; results
#: that are stored.
WIDTH, LIMIT, CURRENT, ENDED, STORED, SINCE = 8, 0, 1, 2, 3, 4


def make_slots(count: int) -> list["Slot"]:
    """Before the children are forked."""
    memory = memoryview(mmap.mmap(-1, count * WIDTH * 8))
    numbers, times = memory.cast("q"), memory.cast("d")
    locks = unnamed_file()
    return [Slot(number, numbers, times, locks) for number in range(count)]


class Slot:
    def __init__(self, number: int, numbers: "memoryview[int]", times: "memoryview[float]", locks: int) -> None:
        self.number, self.numbers, self.times, self.locks = number, numbers, times, locks
        self.first = number * WIDTH
        self.journal = unnamed_file()

    # --- The main process's part -----------------------------------------------------------------------------

    def prepare(self, count: int) -> None:
        """For a new batch of ``count`` messages; nobody else may have it."""
        os.ftruncate(self.journal, 0)
        for field, value in ((LIMIT, count), (CURRENT, -1), (ENDED, 0), (STORED, 0)):
            self.numbers[self.first + field] = value

    def close(self) -> tuple[int, int]:
        """Nothing more may be begun. Returns which message is begun, or -1, and how many have ended."""
        current, ended = self.state()
        self.numbers[self.first + LIMIT] = ended + (current >= 0)
        return current, ended

    def state(self) -> tuple[int, int]:
        return self.numbers[self.first + CURRENT], self.numbers[self.first + ENDED]

    def since(self) -> float:
        """When the message was begun, on the monotonic clock."""
        return self.times[self.first + SINCE]

    def read(self) -> list[Any]:
        """What the child wrote down, but for a last record that it did not write to its end."""
        data, records = BytesIO(os.pread(self.journal, os.fstat(self.journal).st_size, 0)), []
        while True:
            try:
                records.append(pickle.load(data))  # noqa: S301 - a child's, through a file that has no name
            except (EOFError, pickle.UnpicklingError):
                return records

    # --- The child's part ------------------------------------------------------------------------------------

    def begin(self, index: int, now: float) -> bool:
        """All before ``index`` have ended; returns whether it may be begun."""
        first, numbers = self.first, self.numbers
        fcntl.lockf(self.locks, fcntl.LOCK_EX, 1, self.number)  # as ``lock``, which costs more
        try:
            numbers[first + ENDED] = index
            may = index < numbers[first + LIMIT]
            numbers[first + CURRENT] = index if may else -1
            self.times[first + SINCE] = now
            return may
        finally:
            fcntl.lockf(self.locks, fcntl.LOCK_UN, 1, self.number)

    def is_closed(self, count: int) -> bool:
        return self.numbers[self.first + LIMIT] < count

    def write(self, record: Any) -> None:
        os.write(self.journal, pickle.dumps(record, pickle.HIGHEST_PROTOCOL))

    # --- Both ------------------------------------------------------------------------------------------------

    @property
    def stored(self) -> int:
        return self.numbers[self.first + STORED]

    @stored.setter
    def stored(self, count: int) -> None:
        self.numbers[self.first + STORED] = count

    @contextmanager
    def lock(self, wait: bool = True) -> Iterator[None]:
        """Raises BlockingIOError when the other one has it, and ``wait`` is not set."""
        fcntl.lockf(self.locks, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self.number)
        try:
            yield
        finally:
            fcntl.lockf(self.locks, fcntl.LOCK_UN, 1, self.number)


def unnamed_file() -> int:
    """A file in memory that children inherit; its descriptor, which writes at the end."""
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("celeriac")
    else:
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
    return file
