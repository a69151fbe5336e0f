"""Django's and Celery's settings. Every value that differs between two deployments is read by config.env.

https://docs.djangoproject.com/en/5.2/ref/settings/
https://docs.celeryq.dev/en/stable/userguide/configuration.html
"""

import os
from pathlib import Path
from typing import Any

from celery.schedules import crontab
from django.utils.module_loading import import_string
from kombu import Exchange, Queue

from config import env, logs

BASE_DIR = Path(__file__).resolve().parent.parent
#: What has to outlive a container: uploads, the default mailbox. A volume in compose.yaml.
STATE_DIR = Path(env.text("STATE_DIR", "/var/lib/celeriac"))

DEBUG = env.switch("DEBUG", False)
SECRET_KEY = env.secret("DJANGO_SECRET_KEY")

# --- Where people reach the site: PUBLIC_URL alone decides ---------------------------------------------

PUBLIC_URL = env.public_url()
_host, _https = env.host_of(PUBLIC_URL), PUBLIC_URL.startswith("https")
_local = ["localhost", "127.0.0.1", "[::1]"]
ALLOWED_HOSTS = [*_local, _host] if _host in _local or DEBUG else [_host]
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL]
FLOWER_URL = env.flower_url()
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = _https
SECURE_HSTS_SECONDS = 3600 if _https else 0
#: nginx sets X-Real-IP, X-Forwarded-Proto and X-Request-ID itself, so they can be believed behind it only.
BEHIND_NGINX = env.switch("BEHIND_NGINX", False)
if BEHIND_NGINX:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# --- Applications ----------------------------------------------------------------------------------------

INSTALLED_APPS = [
    "accounts",
    "celeriac",
    # The demos and their one switch: delete the folder `demos/` and this line when you start.
    *(import_string("demos.APPS") if env.switch("DEMOS", True) else []),
    "django_celery_beat",
    "django_celery_results",
    "django_htmx",
    "django_structlog",
    # The admin's models everywhere, its pages where pages are served (config/urls.py loads them there).
    "django.contrib.admin.apps.SimpleAdminConfig" if env.SERVICE in {"worker", "beat"} else "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "django_structlog.middlewares.RequestMiddleware",
]

ROOT_URLCONF = "config.urls"
WSGI_APPLICATION = "config.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

AUTH_USER_MODEL = "accounts.User"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{validator}"}
    for validator in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

LANGUAGE_CODE = "en-us"
TIME_ZONE = env.time_zone("TIME_ZONE", env.text("TIME_ZONE", "UTC"))
USE_TZ = True

STATIC_URL = "static/"
STATIC_ROOT = env.text("STATIC_ROOT", str(BASE_DIR / "staticfiles"))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if DEBUG
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
MEDIA_ROOT = STATE_DIR / "media"
# On the volume of the uploads, so that a finished upload is renamed, not copied; and never in memory.
FILE_UPLOAD_TEMP_DIR = STATE_DIR / "media" / "spool"

# --- Postgres --------------------------------------------------------------------------------------------

WEB_THREADS = env.number("WEB_THREADS", 4, minimum=1)
DATABASE_URL = env.secret("DATABASE_URL", default="")
if DATABASE_URL:
    DATABASES = {"default": env.database(DATABASE_URL)}
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": env.text("POSTGRES_HOST", "postgres"),
            "PORT": env.number("POSTGRES_PORT", 5432, minimum=1),
            "NAME": env.text("POSTGRES_DB", "celeriac"),
            "USER": env.text("POSTGRES_USER", "celeriac"),
            "PASSWORD": env.secret("POSTGRES_PASSWORD"),
        }
    }
_database = DATABASES["default"]
_database["CONN_HEALTH_CHECKS"] = True
_options = {
    "connect_timeout": 5,  # seconds
    # A Postgres that is cut off, and not gone, is noticed in seconds; TCP by itself takes a quarter of an hour.
    "tcp_user_timeout": 10_000,  # milliseconds
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    **_database.get("OPTIONS", {}),  # DATABASE_URL's own, like ?sslmode=require
}


def connections_of(service: str) -> dict[str, Any]:
    """How a service holds its connections to Postgres."""
    options = {"application_name": f"celeriac-{service or 'shell'}", **_options}
    if service == "beat":
        # Whoever holds a row in a long transaction stops that row's schedule, and no other.
        options.setdefault("options", "-c lock_timeout=3000")  # milliseconds
    if service != "web":
        # A worker's child keeps its one connection; celeriac.worker.database says how, and why no pool.
        return {"OPTIONS": options, "CONN_MAX_AGE": None}
    # One connection for each thread that can ask for one; gunicorn's threads share them.
    pool = {"min_size": 1, "max_size": WEB_THREADS, "timeout": 10}
    return {"OPTIONS": {**options, "pool": pool}, "CONN_MAX_AGE": 0}


_database |= connections_of(env.SERVICE)

# In Postgres and not in the broker's Redis, which refuses writes when it is full, so that work is kept.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "django_cache",
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    }
}

# --- Durable jobs (celeriac.jobs) ---------------------------------------------------------------------------

# Names of tasks of other people's apps that are to be durable, too: "thirdparty.*, shop.tasks.charge".
DURABLE_TASKS = [pattern.strip() for pattern in env.text("DURABLE_TASKS").split(",") if pattern.strip()]
# How often a worker may die under a job before the job has failed.
JOBS_MAX_CRASHES = env.number("JOBS_MAX_CRASHES", 5, minimum=1)
# How long finished ones are kept.
JOBS_KEEP_DAYS = env.number("JOBS_KEEP_DAYS", 7, minimum=1)

# --- Mail: into a mailbox on a volume until EMAIL_URL names a server ---------------------------------------

EMAIL_URL = env.secret("EMAIL_URL", default=env.mailbox_url(STATE_DIR))
vars().update(env.email(EMAIL_URL))
EMAIL_TIMEOUT = 10  # seconds; a mail server that hangs must not hold a worker
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.text("DEFAULT_FROM_EMAIL", f"celeriac@{_host}")

# Where the feedback demo's mail goes, and how much a visitor who is not signed in may post to a demo.
FEEDBACK_TO = env.text("FEEDBACK_TO")
DEMO_POSTS_PER_MINUTE = env.number("DEMO_POSTS_PER_MINUTE", 10, minimum=1)
# What the pages demo may fetch although it is not public: "10.0.0.8:8000 intranet:80".
PAGES_ALLOWED_ADDRESSES = env.text("PAGES_ALLOWED_ADDRESSES").split()
UPLOAD_MAX_MB = env.number("UPLOAD_MAX_MB", 2048, minimum=1)

# --- Logs ---------------------------------------------------------------------------------------------------

LOG_LEVEL = env.choice("LOG_LEVEL", "INFO", logs.LEVELS)
LOG_FORMAT = env.choice("LOG_FORMAT", "console", logs.FORMATS)
LOGGING_CONFIG = "config.logs.configure"
LOGGING = logs.config(LOG_LEVEL, LOG_FORMAT)
DJANGO_STRUCTLOG_CELERY_ENABLED = False  # celeriac.worker.logs does it
DJANGO_STRUCTLOG_TRUST_UPSTREAM_REQUEST_ID = BEHIND_NGINX

# --- Celery: the defaults that lose nothing; every CELERY_… variable overrides its setting ------------------

_queues = ("default", "heavy_tasks")
_celery: dict[str, Any] = {
    "CELERY_BROKER_URL": "",
    "CELERY_RESULT_BACKEND": "django-db",
    "CELERY_CACHE_BACKEND": "default",
    "CELERY_RESULT_EXTENDED": True,
    "CELERY_RESULT_EXPIRES": 7 * 24 * 3600.0,  # seconds
    # A worker waits for its results' store to come back; a page that asks for a result does not.
    "CELERY_RESULT_BACKEND_ALWAYS_RETRY": env.SERVICE in {"worker", "small"},
    "CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS": {
        "retry_policy": {"max_retries": 1, "interval_start": 0.2, "interval_step": 0, "interval_max": 0.2}
    },
    "CELERY_REDIS_SOCKET_TIMEOUT": 5.0,
    "CELERY_REDIS_SOCKET_CONNECT_TIMEOUT": 3.0,
    "CELERY_TIMEZONE": TIME_ZONE,
    "CELERY_ACCEPT_CONTENT": ["json"],
    # Queues. A name that is not here is refused when it is sent, not lost in a queue that nobody reads.
    "CELERY_TASK_DEFAULT_QUEUE": "default",
    "CELERY_TASK_QUEUES": [Queue(name, Exchange(name, type="direct"), routing_key=name) for name in _queues],
    "CELERY_TASK_CREATE_MISSING_QUEUES": False,
    "CELERY_TASK_ROUTES": {"*.heavy_*": {"queue": "heavy_tasks"}},
    # A message leaves its queue when its task has ended, and goes back when the worker dies.
    "CELERY_TASK_ACKS_LATE": True,
    "CELERY_TASK_REJECT_ON_WORKER_LOST": True,
    "CELERY_TASK_RETRY_ON_WORKER_LOST": True,
    "CELERY_TASK_TIME_LIMIT": 1800.0,  # seconds
    "CELERY_TASK_SOFT_TIME_LIMIT": 1500.0,
    "CELERY_TASK_TRACK_STARTED": True,
    "CELERY_TASK_STORE_ERRORS_EVEN_IF_IGNORED": True,
    "CELERY_TASK_SEND_SENT_EVENT": True,
    "CELERY_TASK_PUBLISH_RETRY_POLICY": {"max_retries": 1, "interval_start": 0.2, "interval_max": 0.2},
    # A broker that is away or frozen is noticed in seconds, and waited for as long as it takes.
    "CELERY_BROKER_TRANSPORT_OPTIONS": {
        # Seconds after which the messages of a dead worker come back; a living one renews it (celeriac.jobs.leases),
        # so a task may take longer.
        "visibility_timeout": 30,
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 5,
        "socket_connect_timeout": 3,
        "socket_keepalive": True,
        "health_check_interval": 5,
    },
    "CELERY_BROKER_POOL_ACQUIRE_TIMEOUT": 5.0,
    "CELERY_BROKER_CONNECTION_MAX_RETRIES": None,
    "CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP": True,
    "CELERY_WORKER_POOL": "celeriac.worker.prefork:TaskPool",
    "CELERY_WORKER_CONCURRENCY": 2,
    "CELERY_WORKER_PREFETCH_MULTIPLIER": 1,
    "CELERY_WORKER_MAX_TASKS_PER_CHILD": 10_000,
    "CELERY_WORKER_MAX_MEMORY_PER_CHILD": 300_000,  # KiB
    "CELERY_WORKER_SEND_TASK_EVENTS": True,
    "CELERY_WORKER_CONSUMER": "celeriac.worker.consumer:Consumer",
    "CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT": 60.0,  # seconds that running tasks get when a worker stops
    "CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS": False,
    # celery.fixups.django closes the connection around every task (celery#10554) unless this is set.
    "CELERY_DB_REUSE_MAX": 1_000_000_000,
    "CELERY_BEAT_SCHEDULER": "celeriac.schedules.scheduler:DatabaseScheduler",
    "CELERY_BEAT_SYNC_EVERY": 1,
    "CELERY_BEAT_MAX_LOOP_INTERVAL": 5.0,
    # Written to the database once (manage.py prepare); from then on they belong to the admin.
    "CELERY_BEAT_SCHEDULE": {
        "clear expired sessions": {"task": "celeriac.clear_sessions", "schedule": crontab("30", "3")},
        "clear expired results": {"task": "celery.backend_cleanup", "schedule": crontab("0", "4")},
        "clear old history": {"task": "celeriac.clear_history", "schedule": crontab("15", "4")},
    },
}
_celery = env.celery_settings(os.environ, _celery)
_celery["CELERY_TIMEZONE"] = env.time_zone("CELERY_TIMEZONE", _celery["CELERY_TIMEZONE"])
_celery["CELERY_BROKER_URL"] = env.checked_broker(_celery["CELERY_BROKER_URL"] or env.redis_url(0))
for _name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"):
    if _celery.get(_name) and "CELERY_BROKER_USE_SSL" not in _celery:
        _celery[_name] = env.verified(_celery[_name])
#: Two pieces of the fast path that no setting of Celery's switches off (docs/celery.md).
PREPARED_MESSAGES = env.switch("PREPARED_MESSAGES", True)
BATCHED_RESULTS = env.switch("BATCHED_RESULTS", True)
_celery["CELERY_RESULT_BACKEND"] = {
    "django-db": "celeriac.worker.results:DatabaseBackend" if BATCHED_RESULTS else "django-db",
    "redis": _celery["CELERY_BROKER_URL"],
}.get(_celery["CELERY_RESULT_BACKEND"], env.checked_backend(_celery["CELERY_RESULT_BACKEND"]))
env.export(_celery)
vars().update(_celery)
# For mypy: those that this repository reads, too.
CELERY_BEAT_SCHEDULE: dict[str, Any]
CELERY_BROKER_TRANSPORT_OPTIONS: dict[str, Any]
CELERY_TASK_SOFT_TIME_LIMIT: float | None
CELERY_TASK_TIME_LIMIT: float | None
CELERY_WORKER_CONCURRENCY: int | str
CELERY_WORKER_SOFT_SHUTDOWN_TIMEOUT: float

# --- What the system checks in celeriac.checks compare: the size of the stack -------------------------------

POSTGRES_MAX_CONNECTIONS = env.number("POSTGRES_MAX_CONNECTIONS", 100, minimum=10)
WEB_PROCESSES = env.number("WEB_PROCESSES", 2, minimum=1)
WEB_REPLICAS = env.number("WEB_REPLICAS", 1)
WORKER_REPLICAS = env.number("WORKER_REPLICAS", 1)
WORKER_HEAVY_REPLICAS = env.number("WORKER_HEAVY_REPLICAS", 1)
BEAT_REPLICAS = env.number("BEAT_REPLICAS", 1)
WORKER_HEAVY_CONCURRENCY = env.number("WORKER_HEAVY_CONCURRENCY", 1, minimum=1)
STOP_GRACE_SECONDS = env.number("STOP_GRACE_SECONDS", 90, minimum=1)
