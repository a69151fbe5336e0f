"""Names the app."""

from django.apps import AppConfig


class WidgetsConfig(AppConfig):
    name = "demos.widgets"
    verbose_name = "Widgets"
