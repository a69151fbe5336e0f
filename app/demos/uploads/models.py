"""A visitor's file, and what became of it."""

import uuid
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models, transaction
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils.text import slugify

from celeriac.jobs import operate
from celeriac.models import Owned
from celeriac.tracking.state import state_of

FOLDER = "uploads"


def stored_name(upload: "Upload", filename: str) -> str:
    """A random one: what a visitor calls a file never becomes a path."""
    return f"{FOLDER}/{upload.pk}"


class Upload(Owned):
    """The row and the file are what must not be lost; the task only carries the row's id."""

    class Kind(models.TextChoices):
        CSV = "csv", "CSV file"
        IMAGE = "image", "picture"

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    #: As its owner calls it: shown, and nothing else.
    name = models.CharField(max_length=255)
    kind = models.CharField(max_length=5, choices=Kind)
    size = models.BigIntegerField()
    file = models.FileField(upload_to=stored_name)
    created_at = models.DateTimeField(auto_now_add=True, db_index=True)
    #: Its job's; the one that its owner watches.
    task_id = models.CharField(max_length=255, blank=True)
    done_at = models.DateTimeField(null=True, blank=True)
    summary = models.CharField(max_length=200, blank=True)
    failed_at = models.DateTimeField(null=True, blank=True)
    error = models.TextField(blank=True)
    #: Whether trying again would end the same.
    file_at_fault = models.BooleanField(default=False)

    class Meta:
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return self.name

    @property
    def state(self) -> str:
        """``working``, ``done`` or ``failed``."""
        # The row first: it is right for ever, while results expire and their backend may be away.
        if self.done_at:
            return "done"
        if self.failed_at:
            return "failed"
        try:  # a task that kills its workers, or is cancelled, cannot write the row
            return "failed" if state_of(self.task_id).word in {"failed", "cancelled"} else "working"
        except Exception:  # any backend, any driver: what the row knows is that it was started
            return "working"

    @property
    def startable(self) -> bool:
        return self.state == "failed" and not self.file_at_fault

    @property
    def result_path(self) -> Path:
        return folder() / f"{self.pk}.result"

    @property
    def result_name(self) -> str:
        """What the result is called on its owner's disk: letters, digits and hyphens of the file's own name."""
        stem = slugify(Path(self.name).stem, allow_unicode=True) or "upload"
        return f"{stem}-summary.csv" if self.kind == self.Kind.CSV else f"{stem}-thumbnail.png"


def folder() -> Path:
    return Path(settings.MEDIA_ROOT) / FOLDER


@receiver(post_delete, sender=Upload)
def delete_files(instance: Upload, **kwargs: Any) -> None:
    """Files go with their row, also when it goes with its user; after the commit, for it may not come."""

    def delete() -> None:
        Path(instance.file.path).unlink(missing_ok=True)
        instance.result_path.unlink(missing_ok=True)

    transaction.on_commit(delete)


@receiver(post_delete, sender=Upload)
def cancel_job(instance: Upload, **kwargs: Any) -> None:
    """There is nothing left to do for it; one that failed would be kept for ever, to be run again."""
    operate.cancel([instance.task_id], "The upload was deleted.")
