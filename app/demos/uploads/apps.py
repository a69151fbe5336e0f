"""Names the app."""

from django.apps import AppConfig


class UploadsConfig(AppConfig):
    name = "demos.uploads"
    verbose_name = "Uploads"
