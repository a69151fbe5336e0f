"""Celery as it is; DJANGO_SETTINGS_MODULE is celery_tutorial or celery_tuned."""

import time
from collections.abc import Iterable

import django
from celery import Celery

from bench.effects import note

app = Celery("bench")
app.config_from_object("django.conf:settings", namespace="CELERY")
django.setup()


@app.task
def noop(number: int, seconds: float) -> int:
    if seconds:
        time.sleep(seconds)
    note(number)
    return number


def send(number: int, seconds: float) -> None:
    noop.delay(number, seconds)


def send_many(numbers: Iterable[int]) -> None:
    with app.producer_pool.acquire(block=True) as producer, producer.batch():
        for number in numbers:
            noop.apply_async((number, 0.0), producer=producer)
