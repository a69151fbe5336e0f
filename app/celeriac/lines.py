"""A log line for each of very many things."""

import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

#: Whether INFO lines are written, as JSON; ``config.logs`` says so.
as_json = False
NEW_LINE = orjson.OPT_APPEND_NEWLINE


def say(logger: str, event: str, **about: Any) -> None:
    """An INFO line, as structlog writes it; but as JSON it costs 4 us here, and 100 through structlog and logging."""
    if as_json and written(logger, event, [about]):
        return
    if logging.getLogger(logger).isEnabledFor(logging.INFO):  # structlog takes 10 us to find out
        structlog.get_logger(logger).info(event, **about)


def say_each(logger: str, event: str, each: Iterable[dict[str, Any]]) -> None:
    """A line about each, all written at once."""
    all_of_them = list(each)
    if not (as_json and written(logger, event, all_of_them)):
        for about in all_of_them:
            say(logger, event, **about)


def written(logger: str, event: str, each: list[dict[str, Any]]) -> bool:
    """Whether the lines are written. A full disk, or what orjson cannot write, is no error of who says something."""
    try:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        rest = {"event": event, "level": "info", "logger": logger, "timestamp": now}
        context = structlog.contextvars.get_contextvars()
        lines = [orjson.dumps({**context, **about, **rest}, repr, NEW_LINE) for about in each]
        sys.stderr.write(b"".join(lines).decode())
    except Exception:
        return False
    return True
