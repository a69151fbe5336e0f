"""A log line for each of very many things."""

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog

#: Whether INFO lines are written, as JSON; ``config.logs`` says so.
as_json = False
NEW_LINE = orjson.OPT_APPEND_NEWLINE


def say(logger: str, event: str, **about: Any) -> None:
    """An INFO line, as structlog writes it; but as JSON it costs 4 us here, and 100 through structlog and logging."""
    say_each(logger, event, [about], structlog.contextvars.get_contextvars())


def say_each(logger: str, event: str, each: Sequence[dict[str, Any]], context: dict[str, Any]) -> None:
    """A line about each, all written at once; ``context`` is that of the log now."""
    if as_json:
        try:
            now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
            rest = {"event": event, "level": "info", "logger": logger, "timestamp": now}
            lines = [orjson.dumps({**context, **about, **rest}, repr, NEW_LINE) for about in each]
            sys.stderr.write(b"".join(lines).decode())
            return
        except Exception:  # noqa: S110  a full disk, or what orjson cannot write, is no error of who says something
            pass
    if logging.getLogger(logger).isEnabledFor(logging.INFO):  # structlog takes 10 us to find out
        for about in each:
            structlog.get_logger(logger).info(event, **about)
