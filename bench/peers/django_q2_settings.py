"""Django's settings for django-q2, with its broker in Postgres: its broker in Redis acknowledges nothing."""

import os

from bench.peers.addresses import DJANGO

SECRET_KEY = "only-for-benchmarks"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DATABASES = DJANGO
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["django_q"]
Q_CLUSTER = {
    "name": "bench",
    "orm": "default",
    "workers": int(os.environ["WORKERS"]),
    "bulk": 50,
    "poll": 0.01,  # seconds; it polls, by default five times a second
    "queue_limit": 100,
    "save_limit": 0,  # every result is kept
    "timeout": 60,
    "retry": 120,
    "ack_failures": True,
    "scheduler": False,
    "log_level": "WARNING",
}
