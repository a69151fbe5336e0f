"""A visitor's feedback, and how far its mail has come."""

import uuid

from celery import states
from celery.result import AsyncResult
from django.db import models

#: What Celery says about a task that a worker has started; everything else it says means "running".
STATE_OF = {states.RETRY: "retrying", states.FAILURE: "failed", states.REVOKED: "failed"}


class Feedback(models.Model):
    """The row is what must not be lost; the task only carries its id."""

    # A random id cannot be guessed, so the page that shows a feedback is its sender's alone.
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    email = models.EmailField()
    message = models.TextField(max_length=5000)
    created_at = models.DateTimeField(auto_now_add=True)
    # Written by the task when a worker starts it, so an empty one means: no worker has had it yet.
    task_id = models.CharField(max_length=255, blank=True)
    attempts = models.PositiveSmallIntegerField(default=0)
    delivered_at = models.DateTimeField(null=True, blank=True)
    failed_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)

    class Meta:
        ordering = ["-created_at"]
        verbose_name_plural = "feedback"

    def __str__(self) -> str:
        return f"{self.email}, {self.created_at:%Y-%m-%d %H:%M}"

    @property
    def state(self) -> str:
        """``queued``, ``running``, ``retrying``, ``delivered`` or ``failed``."""
        # The row first: it is right for ever, while results expire and their backend may be away.
        if self.delivered_at:
            return "delivered"
        if self.failed_at:
            return "failed"
        if not self.task_id:
            return "queued"
        try:
            return STATE_OF.get(AsyncResult(self.task_id).state, "running")
        except Exception:  # any backend, any driver: what the row knows is that a worker has started
            return "running"
