"""Log lines are readable in both formats, whatever is logged."""

import logging
from logging.config import DictConfigurator  # type: ignore[attr-defined]

import pytest

from config import logs


@pytest.mark.parametrize("fmt", logs.FORMATS)
def test_an_exception_that_is_logged_as_a_value_is_readable(fmt):
    """django_structlog does so for a task that was killed by its hard time limit."""
    config = logs.config("INFO", fmt)
    formatter = DictConfigurator(config).configure_formatter(config["formatters"]["structlog"])
    event = {"event": "task_failed", "exception": TimeoutError("30 s"), "error": "30 s"}
    record = logging.LogRecord("celery", logging.ERROR, "", 0, event, (), None)
    record._logger, record._name = logging.getLogger("celery"), "error"

    line = formatter.format(record)

    assert "task_failed" in line
    assert "TimeoutError('30 s')" in line
