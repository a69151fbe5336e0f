"""What the tasks count and rename."""

from django.db import models

from celeriac.models import Owned


class Widget(Owned):
    """The model of Celery's Django example; its owner alone sees and renames it, since anyone may write here."""

    name = models.CharField(max_length=100)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return self.name
