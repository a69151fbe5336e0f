"""Names the app."""

from django.apps import AppConfig


class FeedbackConfig(AppConfig):
    name = "demos.feedback"
    verbose_name = "Feedback"
