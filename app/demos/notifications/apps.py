"""Names the app."""

from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    name = "demos.notifications"
    verbose_name = "Notifications"
