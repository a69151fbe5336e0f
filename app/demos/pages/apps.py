"""Names the app."""

from django.apps import AppConfig


class PagesConfig(AppConfig):
    name = "demos.pages"
    verbose_name = "Pages"
