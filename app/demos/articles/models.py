"""An article, and its twin in the hands of a task that does it the wrong way."""

import uuid

from django.db import models

from celeriac.models import Owned


class Article(Owned):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    title = models.CharField(max_length=120)
    body = models.TextField(max_length=5000)
    #: Counts the changes: a form that was opened before the last one is not saved over it.
    version = models.PositiveIntegerField(default=1, editable=False)
    #: Set in a twin: the same article, edited together with it, for the task that overwrites.
    twin_of = models.OneToOneField("self", models.CASCADE, null=True, editable=False, related_name="twin")
    task_id = models.CharField(max_length=255, blank=True, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.title
