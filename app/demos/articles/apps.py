"""Names the app."""

from django.apps import AppConfig


class ArticlesConfig(AppConfig):
    name = "demos.articles"
    verbose_name = "Articles"
