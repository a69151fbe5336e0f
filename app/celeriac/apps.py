"""Registers the system checks."""

from django.apps import AppConfig


class CeleriacConfig(AppConfig):
    name = "celeriac"

    def ready(self) -> None:
        from celeriac import checks  # noqa: F401  registers itself
