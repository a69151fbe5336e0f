"""Celery as it is; DJANGO_SETTINGS_MODULE is celery_tutorial or celery_tuned."""

from collections.abc import Iterable

import django
from celery import Celery

from bench.effects import work

app = Celery("bench")
app.config_from_object("django.conf:settings", namespace="CELERY")
django.setup()


@app.task
def noop(number: int, seconds: float) -> int:
    return work(number, seconds)


def send(number: int, seconds: float) -> None:
    noop.delay(number, seconds)


def send_many(numbers: Iterable[int]) -> None:
    with app.producer_pool.acquire(block=True) as producer, producer.batch():
        for number in numbers:
            noop.apply_async((number, 0.0), producer=producer)
