"""Django's settings, as Celery's "First steps with Django" has them."""

import os

from bench.peers.addresses import DJANGO, REDIS

SECRET_KEY = "only-for-benchmarks"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
DATABASES = DJANGO
INSTALLED_APPS = ["django_celery_results"]

CELERY_BROKER_URL = REDIS
CELERY_RESULT_BACKEND = {"redis": REDIS}.get(os.environ["RESULTS"], os.environ["RESULTS"])
CELERY_WORKER_SEND_TASK_EVENTS = os.environ["EVENTS"] == "true"
