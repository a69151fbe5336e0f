"""Logs: one line an event, JSON in containers, coloured on a terminal; a request's id follows its tasks."""

import logging.config
from typing import Any

import structlog

from celeriac import lines

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMATS = ("json", "console")
SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def exception_as_text(logger: Any, method: str, event: dict[str, Any]) -> dict[str, Any]:
    """django_structlog logs a failed task's exception as an object, at which structlog's console renderer fails."""
    if isinstance(event.get("exception"), BaseException):
        event["exception"] = repr(event["exception"])
    return event


def config(level: str | int, fmt: str) -> dict[str, Any]:
    """A ``logging.config`` dictionary; ``fmt`` is ``json`` or ``console``."""
    render: list[Any] = [structlog.dev.ConsoleRenderer()]
    if fmt == "json":
        render = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "structlog": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": [*SHARED, structlog.stdlib.ExtraAdder()],
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, exception_as_text, *render],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "structlog"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            "django": {"level": "INFO", "propagate": True, "handlers": []},
            "django_structlog": {"level": "INFO", "propagate": True},
            "gunicorn.error": {"level": "INFO", "propagate": True, "handlers": []},
            # One line for each task comes from django_structlog already.
            "celery.app.trace": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
        },
    }


def configure(settings: dict[str, Any]) -> None:
    """What Django calls as ``LOGGING_CONFIG``, and Celery's ``setup_logging`` signal after it."""
    renderer = settings["formatters"]["structlog"]["processors"][-1]
    logging.config.dictConfig(settings)
    is_json = isinstance(renderer, structlog.processors.JSONRenderer)
    lines.as_json = is_json and logging.root.isEnabledFor(logging.INFO)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *SHARED,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
