"""The one reader of the environment: text, numbers, switches, secrets and every ``CELERY_…`` variable.

Whatever is wrong stops the start with one sentence that names the variable and the fix.
"""

import difflib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import environ
from celery.app.defaults import NAMESPACES, Option, flatten

#: Which of the stack's programs this process is (``web``, ``worker``, ``beat``, ``flower``, ``migrate``,
#: ``build``); every ``services/*/start`` sets it. Empty for a command typed by hand.
SERVICE = os.environ.get("SERVICE", "")

#: The secrets a service may read. Others get none of them: Flower never sees Postgres's password.
SECRETS_OF: dict[str, set[str]] = {"flower": {"REDIS_PASSWORD"}, "build": set(), "secrets": set()}

PLACEHOLDERS = ("changeme", "change-me", "change_me", "django-insecure", "example", "placeholder", "your-")
WEAK = {"admin", "celeriac", "django", "flower", "password", "postgres", "redis", "secret", "test"}
SHORTEST_SECRET = 12  # characters

#: What Celery reads from the environment by itself, although its option table does not know it.
READ_BY_CELERY = {"SKIP_CHECKS", "CUSTOM_WORKER_POOL", "CONFIG_MODULE", "LOADER", "TRACE_APP", "RDBSIG"}
READ_BY_CELERY |= {"LOG_LEVEL", "LOG_FILE", "LOG_REDIRECT", "LOG_REDIRECT_LEVEL"}

OPTIONS: dict[str, Option] = {**dict(flatten(NAMESPACES)), "db_reuse_max": Option(None, type="int")}

#: Options whose defaults are a safety net: what the environment gives is laid over them, key by key.
MERGED = {"broker_transport_options", "task_publish_retry_policy"}

BROKER_SCHEMES = {"redis", "rediss", "redis+socket"}


class ConfigError(SystemExit):
    """A variable that the stack cannot start with; the process ends with its one sentence and status 1."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"Celeriac cannot start: {sentence}")


class Env(environ.FileAwareEnv):
    """django-environ, where a blank variable counts as not given, as Compose's ``${NAME:-}`` makes it."""

    def get_value(self, var: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().get_value(var, *args, **kwargs)
        except OSError as error:
            raise ConfigError(
                f"the file that {var}_FILE names, {self.ENVIRON.env.get(f'{var}_FILE')}, cannot be read: "
                f"{error.strerror}"
            ) from None


_env = Env()


def text(name: str, default: str = "") -> str:
    """The variable, or the text in the file that ``NAME_FILE`` names, without surrounding white space."""
    if not os.environ.get(f"{name}_FILE"):
        os.environ.pop(f"{name}_FILE", None)
    return _env.str(name, default="").strip() or default


def number(name: str, default: int, minimum: int = 0) -> int:
    value = text(name) or str(default)
    if not value.lstrip("-").isdigit() or int(value) < minimum:
        raise ConfigError(f"{name}={value} is not a whole number of at least {minimum}.")
    return int(value)


def switch(name: str, default: bool) -> bool:
    return _switch(name, text(name) or str(default))


def _switch(name: str, value: str) -> bool:
    lowered = value.lower()
    if lowered in {"1", "true", "on", "yes"}:
        return True
    if lowered in {"0", "false", "off", "no"}:
        return False
    raise ConfigError(f"{name}={value} is neither on nor off; write true or false.")


def secret(name: str, default: str | None = None) -> str:
    """A secret that is neither missing, nor a placeholder, nor weak.

    Returns an empty text in services that have no business with it. ``default`` is for secrets one may
    do without.
    """
    if name not in SECRETS_OF.get(SERVICE, {name}):
        return default or ""
    value = text(name)
    if not value:
        if default is not None:
            return default
        raise ConfigError(
            f"{name} is not set; give {name} or {name}_FILE, or start with `docker compose up` or "
            "`make demo`, which make one."
        )
    return strong(name, value)


def strong(name: str, value: str) -> str:
    """``value``, or a :class:`ConfigError` that says why it is no secret."""
    lowered = value.lower()
    if lowered in WEAK or any(word in lowered for word in PLACEHOLDERS):
        raise ConfigError(f"{name} is a placeholder; delete the line to have one made, or give a random one.")
    if len(value) < SHORTEST_SECRET or len(set(value)) < 5:
        raise ConfigError(
            f"{name} is weak; give at least {SHORTEST_SECRET} characters, five of them different, "
            "or delete the line to have one made."
        )
    return value


def public_url() -> str:
    """``PUBLIC_URL``: the scheme, host and port at which people reach the site; no path."""
    url = text("PUBLIC_URL", "http://localhost:8080").rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path or parts.query:
        raise ConfigError(f"PUBLIC_URL={url} is no address; write it like https://www.my-site.org.")
    return url


def redis_url(database: int) -> str:
    password = quote(secret("REDIS_PASSWORD"), safe="")
    return f"redis://:{password}@{text('REDIS_HOST', 'redis')}:{number('REDIS_PORT', 6379, 1)}/{database}"


def checked_broker(url: str) -> str:
    scheme = url.partition("://")[0]
    if scheme not in BROKER_SCHEMES:
        raise ConfigError(
            f"CELERY_BROKER_URL begins with {scheme}://, and the only broker Celeriac runs on is Redis; "
            "write redis://… or delete the line to use the stack's own."
        )
    return url


def celery_settings(environment: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Every ``CELERY_…`` variable as a Celery setting, typed by Celery's own option table.

    ``defaults`` and the result are keyed like Django settings: ``CELERY_TASK_TIME_LIMIT``. Raises
    :class:`ConfigError` for a name Celery does not have and for a value that is not of its type.
    """
    settings = dict(defaults)
    for variable in sorted(environment):
        if not variable.startswith("CELERY_") or not environment[variable].strip():
            continue
        name = variable.removesuffix("_FILE") if _is_file_of_option(variable) else variable
        key = name.removeprefix("CELERY_").lower()
        if key.upper() in READ_BY_CELERY:
            continue
        if key not in OPTIONS:
            raise ConfigError(f"{variable} is no Celery setting; {_nearest(key)}.")
        value = parse(name, text(name), OPTIONS[key])
        settings[name] = {**settings.get(name, {}), **value} if key in MERGED else value
    return settings


def _is_file_of_option(variable: str) -> bool:
    return variable.endswith("_FILE") and variable[len("CELERY_") : -len("_FILE")].lower() in OPTIONS


def _nearest(key: str) -> str:
    """What someone who wrote ``key`` most likely meant."""
    old = [new for new, option in OPTIONS.items() if f"celery_{key}" in _old_names(new, option)]
    longer = sorted((o for o in OPTIONS if o.endswith(f"_{key}")), key=lambda o: (not o.startswith("task_"), o))
    close = old or longer or difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.5)
    return f"the nearest one is CELERY_{close[0].upper()}" if close else "see Celery's list of settings"


def _old_names(name: str, option: Option) -> set[str]:
    return {old.format(name.partition("_")[2]) for old in option.old}


def parse(name: str, value: str, option: Option) -> Any:
    """``value`` as the Python type that Celery's option table gives for ``name``."""
    kind = getattr(option.type, "__name__", option.type)
    if kind in {"int", "float"}:
        return _number(name, value, int if kind == "int" else float)
    if name == "CELERY_BROKER_USE_SSL" and value.startswith("{"):
        return _json(name, value, dict)
    if kind == "bool":
        return _switch(name, value)
    if kind in {"dict", "list", "tuple"}:
        return _json(name, value, dict if kind == "dict" else list)
    if kind == "any":
        return json.loads(value) if value[:1] in "[{" and _json(name, value, (dict, list)) else _maybe_int(value)
    return value.encode() if kind == "bytes" else value


def _number(name: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(
            f"{name}={value} is not a number" + (" without a fraction." if kind is int else ".")
        ) from None


def _maybe_int(value: str) -> int | str:
    return int(value) if value.isdigit() else value


def _json(name: str, value: str, kind: type | tuple[type, ...]) -> Any:
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise ConfigError(f"{name} is not JSON ({error}).") from None
    if not isinstance(parsed, kind):
        shape = 'a map, like {"a": 1}' if kind is dict else 'a list, like ["a", "b"]'
        raise ConfigError(f"{name} has to be {shape}.")
    return parsed


def export(settings: Mapping[str, Any]) -> None:
    """Write the composed broker and result addresses back to the environment.

    Celery prefers these two variables to its settings (``celery/app/utils.py``, ``Settings.broker_url``),
    so a short form such as ``CELERY_RESULT_BACKEND=redis`` would reach it as it was written.
    """
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
        os.environ[name] = settings[name]


def mailbox_url(state: Path) -> str:
    return f"filemail://{state / 'mail'}"
