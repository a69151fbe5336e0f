"""The platform's own tables."""

from django.db import models


class SeededSchedule(models.Model):
    """A schedule of ``CELERY_BEAT_SCHEDULE`` that was written once and belongs to the admin since."""

    name = models.CharField(max_length=200, unique=True)

    def __str__(self) -> str:
        return self.name
