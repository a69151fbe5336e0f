"""Waiting for what has to become true: the one way in which a test lets time pass."""

import time
from collections.abc import Callable
from typing import TypeVar

import pytest

Answer = TypeVar("Answer")


def eventually(true: Callable[[], Answer], seconds: float = 90, what: str = "", every: float = 0.3) -> Answer:
    """The first true answer of ``true``, or a failed test after ``seconds``."""
    deadline = time.monotonic() + seconds
    while True:
        if answer := true():
            return answer
        if time.monotonic() > deadline:
            pytest.fail(f"not true after {seconds:g} s: {what or true}; the last answer was {answer!r}")
        time.sleep(every)
