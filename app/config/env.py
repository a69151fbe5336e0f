"""The one reader of the environment: text, numbers, switches, secrets and every ``CELERY_…`` variable.

Whatever is wrong stops the start with one sentence that names the variable and the fix.
"""

import difflib
import json
import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo

import environ
from celery.app.backends import BACKEND_ALIASES
from celery.app.defaults import NAMESPACES, Option, flatten
from django.core.exceptions import ImproperlyConfigured
from environ.fileaware_mapping import FileAwareMapping

#: Which of the stack's programs this process is (``web``, ``worker``, ``beat``, ``flower``, ``migrate``,
#: ``small``, ``build``); every ``services/*/start`` sets it. Empty for a command typed by hand.
SERVICE = os.environ.get("SERVICE", "")

#: The secrets a service may read. Others get none of them: Flower never sees Postgres's password.
SECRETS_OF: dict[str, set[str]] = {"flower": {"REDIS_PASSWORD"}, "build": set(), "secrets": set()}

#: Kept as secrets are because a password may be in them; they are no secrets to be judged themselves.
ADDRESSES = {"DATABASE_URL", "EMAIL_URL"}

PLACEHOLDERS = ("changeme", "change-me", "change_me", "django-insecure", "example", "placeholder", "your-")
WEAK = {"admin", "celeriac", "django", "flower", "password", "postgres", "redis", "secret", "test"}
SHORTEST_SECRET = 12  # characters
#: What would end the password in redis.conf, or begin another one in Flower's basic_auth.
FORBIDDEN = {"REDIS_PASSWORD": " \t\r\n\"'", "FLOWER_PASSWORD": ","}

#: What Celery reads from the environment by itself, although its option table does not know it.
READ_BY_CELERY = {"SKIP_CHECKS", "CUSTOM_WORKER_POOL", "CONFIG_MODULE", "LOADER", "TRACE_APP", "RDBSIG"}
READ_BY_CELERY |= {"LOG_LEVEL", "LOG_FILE", "LOG_REDIRECT", "LOG_REDIRECT_LEVEL"}
READ_BY_CELERY |= {"RDB_HOST", "RDB_PORT", "BENCH", "BENCH_EVERY"}
READ_BY_CELERY |= {
    f"WORKER_{name}" for name in ("REVOKES_MAX", "REVOKE_EXPIRES", "SUCCESSFUL_MAX", "SUCCESSFUL_EXPIRES")
}

OPTIONS: dict[str, Option] = {
    **dict(flatten(NAMESPACES)),
    # Documented or used by Celery, and left out of its table.
    "db_reuse_max": Option(None, type="int"),
    "redis_backend_health_check_interval": Option(None, type="int"),
    "redis_backend_credential_provider": Option(None, type="string"),
    "redis_client_name": Option(None, type="string"),
    "result_backend_thread_safe": Option(False, type="bool"),
    "gcs_threadpool_maxsize": Option(None, type="int"),
}

#: Variables named as Celery's settings were before 4.0 (``CELERYD_CONCURRENCY``) -> as they are now.
OLD_NAMES = {
    old.upper(): f"CELERY_{new.upper()}" for new, option in OPTIONS.items() for old in option.old if "{" not in old
}

#: Options whose defaults are a safety net: what the environment gives is laid over them, key by key.
MERGED = {"beat_schedule", "broker_transport_options", "task_publish_retry_policy"}

BROKER_SCHEMES = {"redis", "rediss", "redis+socket"}
POSTGRES_SCHEMES = {"postgres", "postgresql", "psql", "pgsql", "postgis"}


class ConfigError(SystemExit):
    """A variable that the stack cannot start with; the process ends with its one sentence and status 1."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"Celeriac cannot start: {sentence}")


def text(name: str, default: str = "", environment: Mapping[str, str] = os.environ) -> str:
    """The variable, or the text in the file that ``NAME_FILE`` names, without surrounding white space.

    Blank counts as not given, as Compose's ``${NAME:-}`` makes it. Read below ``environ.Env``, which takes a
    value that begins with ``$`` for the name of another variable; a password may begin so.
    """
    try:
        return FileAwareMapping(environment, cache=False).get(name, "").strip() or default
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(
            f"the file that {name}_FILE names, {environment[f'{name}_FILE']}, cannot be read: {reason}."
        ) from None


def number(name: str, default: int, minimum: int = 0) -> int:
    value = text(name) or str(default)
    try:
        whole = int(value)
    except ValueError:
        whole = minimum - 1
    if whole < minimum:
        raise ConfigError(f"{name}={value} is not a whole number of at least {minimum}.")
    return whole


def choice(name: str, default: str, choices: Collection[str]) -> str:
    value = text(name, default)
    found = next((each for each in choices if each.lower() == value.lower()), None)
    if not found:
        raise ConfigError(f"{name}={value} is none of {', '.join(choices)}.")
    return found


def time_zone(name: str, value: str) -> str:
    try:
        return ZoneInfo(value).key
    except (OSError, ValueError, LookupError):  # a folder, a path out of the data, an unknown name
        raise ConfigError(f"{name}={value} is no time zone; write it like UTC or Europe/Berlin.") from None


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
    return value if name in ADDRESSES else strong(name, value)


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
    if set(value) & set(FORBIDDEN.get(name, "")):
        raise ConfigError(f"{name} has a space, a quote or a comma in it, which cuts it off; use other characters.")
    return value


def public_url() -> str:
    """``PUBLIC_URL``: the scheme, host and port at which people reach the site; no path.

    Strict, because the host goes into ALLOWED_HOSTS, where ``*`` and a leading dot mean more than one host.
    """
    url = text("PUBLIC_URL", "http://localhost:8080").rstrip("/").lower()  # as browsers send it in Origin
    if not re.fullmatch(r"https?://([a-z0-9][a-z0-9._-]*|\[[0-9a-f:.]+\])(:[0-9]{1,5})?", url):
        raise ConfigError(f"PUBLIC_URL={url} is no address; write it like https://www.my-site.org.")
    return url.removesuffix(":443" if url.startswith("https") else ":80")


def database(url: str) -> dict[str, Any]:
    """``DATABASE_URL`` as one of Django's ``DATABASES``."""
    try:
        parts, parsed = urlsplit(url), environ.Env.db_url_config(url)
    except ValueError:
        parts, parsed = urlsplit(""), {}
    if parts.scheme not in POSTGRES_SCHEMES or not parsed:
        raise ConfigError(
            "DATABASE_URL is no address of a Postgres; write it like postgres://user:password@host:5432/name."
        )
    if parts.password:
        strong("The password in DATABASE_URL", parts.password)
    return parsed


def email(url: str) -> dict[str, Any]:
    """``EMAIL_URL`` as Django's ``EMAIL_…`` settings."""
    try:
        return environ.Env.email_url_config(url)
    except (ValueError, ImproperlyConfigured):
        raise ConfigError(
            "EMAIL_URL is no address of a mail server; write it like smtp+tls://user:password@host:587."
        ) from None


def redis_url(database: int) -> str:
    password = quote(secret("REDIS_PASSWORD"), safe="")
    return f"redis://:{password}@{text('REDIS_HOST', 'redis')}:{number('REDIS_PORT', 6379, 1)}/{database}"


def checked_broker(url: str, name: str = "CELERY_BROKER_URL") -> str:
    for address in url.split(";"):  # kombu's list of brokers to fall back on
        scheme, separator, _ = address.partition("://")
        if scheme not in BROKER_SCHEMES or not separator:
            # Only the scheme is shown: the rest may hold a password.
            written = f"begins with {scheme}://" if separator else "has no redis:// in front"
            raise ConfigError(
                f"{name} {written}, and the only broker Celeriac runs on is Redis; "
                "write redis://… or delete the line to use the stack's own."
            )
    return url


def verified(url: str) -> str:
    """With TLS, the server's certificate is verified unless the address says otherwise; kombu would not do it."""
    return ";".join(
        f"{address}{'&' if '?' in address else '?'}ssl_cert_reqs=required"
        if address.startswith("rediss://") and "ssl_cert_reqs=" not in address
        else address
        for address in url.split(";")
    )


def checked_backend(backend: str) -> str:
    """Celery would find out when the first result is stored, and that one would be lost."""
    alias = re.split(r"\+|://", backend)[0]
    if alias in {*BACKEND_ALIASES, "django-db", "django-cache"} or "." in alias:  # or the path of a class
        return backend
    raise ConfigError(
        f"CELERY_RESULT_BACKEND begins with {alias}, which is no result backend; write django-db, redis, "
        "django-cache or redis://…, or delete the line."
    )


def celery_settings(environment: Mapping[str, str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Every ``CELERY_…`` variable as a Celery setting, typed by Celery's own option table.

    ``defaults`` and the result are keyed like Django settings: ``CELERY_TASK_TIME_LIMIT``. Raises
    :class:`ConfigError` for a name Celery does not have and for a value that is not of its type.
    """
    settings = dict(defaults)
    for variable in sorted(environment):
        if not variable.startswith("CELERY_") and variable not in OLD_NAMES:
            continue
        name = variable.removesuffix("_FILE") if _is_file_of_option(variable) else variable
        value, key = text(name, environment=environment), name.removeprefix("CELERY_").lower()
        if not value or key.upper() in READ_BY_CELERY:
            continue
        if key not in OPTIONS:
            raise ConfigError(f"{variable} is no Celery setting; {_nearest(name)}.")
        parsed = parse(name, value, OPTIONS[key])
        settings[name] = {**settings.get(name, {}), **parsed} if key in MERGED else parsed
    for name in ("CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL"):
        if settings.get(name):
            checked_broker(settings[name], name)
    return settings


def _is_file_of_option(variable: str) -> bool:
    return variable.endswith("_FILE") and variable[len("CELERY_") : -len("_FILE")].lower() in OPTIONS


def _nearest(variable: str) -> str:
    """What someone who wrote ``variable`` most likely meant."""
    key = variable.removeprefix("CELERY_").lower()
    longer = sorted((o for o in OPTIONS if o.endswith(f"_{key}")), key=lambda o: (not o.startswith("task_"), len(o)))
    close = [f"CELERY_{o.upper()}" for o in longer or difflib.get_close_matches(key, OPTIONS, n=1, cutoff=0.5)]
    new = OLD_NAMES.get(variable) or (close[0] if close else None)
    return f"the nearest one is {new}" if new else "see Celery's list of settings"


def parse(name: str, value: str, option: Option) -> Any:
    """``value`` as the Python type that Celery's option table gives for ``name``."""
    kind = getattr(option.type, "__name__", option.type)
    if kind in {"int", "float"}:
        return _number(name, value, int if kind == "int" else float)
    if name == "CELERY_BROKER_USE_SSL" and value.startswith("{"):
        return _json(name, value, dict)
    if name == "CELERY_WORKER_CONCURRENCY" and value.lower() != "auto":
        return _number(name, value, int)
    if kind == "bool":
        return _switch(name, value)
    if kind in {"dict", "list", "tuple"}:
        return _json(name, value, dict if kind == "dict" else list)
    if kind == "any":
        return _json(name, value, dict if value[0] == "{" else list) if value[0] in "[{" else value
    return value.encode() if kind == "bytes" else value


def _number(name: str, value: str, kind: type) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise ConfigError(
            f"{name}={value} is not a number" + (" without a fraction." if kind is int else ".")
        ) from None


def _json(name: str, value: str, kind: type) -> Any:
    shape = 'a map, like {"a": 1}' if kind is dict else 'a list, like ["a", "b"]'
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is not JSON ({error}); write {shape}.") from None
    if not isinstance(parsed, kind):
        raise ConfigError(f"{name} has to be JSON for {shape}.")
    return parsed


def export(settings: Mapping[str, Any]) -> None:
    """Write the composed broker and result addresses back to the environment.

    Celery prefers these two variables to its settings (``celery/app/utils.py``, ``Settings.broker_url``),
    so a short form such as ``CELERY_RESULT_BACKEND=redis`` would reach it as it was written.
    """
    if SERVICE != "secrets":  # which keeps what was given, not what is composed of it
        for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"):
            os.environ[name] = settings[name]


def host_of(url: str) -> str:
    """The host as it stands in ``url``; an IPv6 address in its brackets."""
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


def flower_url() -> str:
    """Where people reach Flower: on the host of ``PUBLIC_URL``, unless ``FLOWER_URL`` says otherwise."""
    site = public_url()
    scheme = site.partition(":")[0]
    return text("FLOWER_URL") or f"{scheme}://{host_of(site)}:{number('FLOWER_PORT', 5555)}"


def mailbox_url(state: Path) -> str:
    return f"filemail:///{state / 'mail'}"  # django-environ drops the first slash of the path
