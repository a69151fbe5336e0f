"""django-q2; DJANGO_SETTINGS_MODULE is django_q2_settings."""

import django
from django.core.management import call_command

from bench.effects import work

django.setup()

from django_q.tasks import async_task  # noqa: E402


def noop(number: int, seconds: float) -> int:
    return work(number, seconds)


def prepare() -> None:
    call_command("migrate", "django_q", verbosity=0)


def send(number: int, seconds: float) -> None:
    async_task(noop, number, seconds)
