"""This repository's app, with the settings it has by default; DURABLE_TASKS makes the task a durable job."""

import os
from collections.abc import Iterable

import django

django.setup()

from celery import shared_task  # noqa: E402

from bench.effects import work  # noqa: E402
from config.celery import app  # noqa: E402, F401


@shared_task(atomic=os.environ["ATOMIC"] == "true")
def noop(number: int, seconds: float) -> int:
    return work(number, seconds)


def send(number: int, seconds: float) -> None:
    noop.delay(number, seconds)


def send_many(numbers: Iterable[int]) -> None:
    noop.delay_many([[number, 0.0] for number in numbers])
