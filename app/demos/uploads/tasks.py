"""The work behind an upload, on the queue heavy_tasks; and the end of old ones."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from celery import Task, current_app, shared_task
from celery.exceptions import SoftTimeLimitExceeded
from celery.schedules import crontab
from celery.utils import uuid
from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone

from celeriac.jobs import operate
from celeriac.models import TrackedTask
from celeriac.tracking import Progress
from demos.uploads.errors import FileError
from demos.uploads.limits import KEEP_FOR
from demos.uploads.models import Upload, folder
from demos.uploads.summary import Report, summarise

#: What passes by itself: a disk or a database that is away, busy or full for a while.
PASSING = (OSError, OperationalError, InterfaceError)


def make_thumbnail(*arguments: Any) -> str:
    from demos.uploads import thumbnail  # with Pillow, which workers without a picture need not hold in memory

    return thumbnail.make_thumbnail(*arguments)


WORK: dict[str, Callable[[Path, IO[bytes], Report], str]] = {
    Upload.Kind.CSV: summarise,
    Upload.Kind.IMAGE: make_thumbnail,
}
BATCH = 500


def start(upload: Upload) -> None:
    """Begin the work on this upload; if it failed before, by the same job, whose id its owner watches.

    The job is durable, so it is written in the transaction of the caller. Redis may be away.
    """
    with transaction.atomic():
        if not operate.retry([upload.task_id]):
            upload.task_id = uuid()
            heavy_process.apply_async([str(upload.pk)], task_id=upload.task_id)
        owner = {"user": upload.user, "visitor": upload.visitor}  # staff may start it, but do not own it
        label = f"Processing {upload.name}"[:200]
        TrackedTask.objects.get_or_create(task_id=upload.task_id, defaults={"label": label, **owner})
        Upload.objects.filter(pk=upload.pk).update(task_id=upload.task_id, failed_at=None, error="")


def record_failure(upload_id: str, task_id: str, error: Exception) -> None:
    """The row keeps why; unless the file is at fault, its owner and staff can start it again."""
    at_fault = isinstance(error, FileError)
    Upload.objects.filter(pk=upload_id, done_at=None, task_id=task_id).update(
        failed_at=timezone.now(),
        error=str(error) if at_fault else f"It could not be processed: {type(error).__name__}: {error}",
        file_at_fault=at_fault,
    )


def give_up(self: Task, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
    record_failure(args[0], task_id, exc)


@shared_task(
    bind=True,
    durable=True,  # not atomic: its file is no part of a transaction
    on_failure=give_up,
    throws=(FileError,),  # a visitor's mistake is no traceback in our logs
    autoretry_for=PASSING,
    max_retries=8,
    retry_backoff=2,  # seconds, doubled by each attempt
    retry_backoff_max=600,
    retry_jitter=True,
)
def heavy_process(self: Task, upload_id: str) -> str:
    """Make the result of this upload. Run twice, it makes the same result again and replaces the first whole."""
    upload = Upload.objects.filter(pk=upload_id, done_at=None, task_id=self.request.id).first()
    if not upload:  # an attempt after a crash may find it done or deleted; or begun by another job since
        return "nothing to do"
    try:
        summary = process(upload, Progress(self, total=upload.size).report)
    except FileError as error:
        # Now, and not when Celery has written that it failed: the page looks here as soon as it reads that.
        record_failure(upload_id, self.request.id, error)
        raise
    kept = Upload.objects.filter(pk=upload_id)
    if not kept.update(done_at=timezone.now(), summary=summary[:200], failed_at=None, error=""):
        upload.result_path.unlink(missing_ok=True)  # it was deleted in the meantime
    return summary


def process(upload: Upload, report: Report) -> str:
    source = Path(upload.file.path)
    if not source.exists():
        raise FileError("The file is not there any more. Send it again.")
    try:
        with replacing(upload.result_path) as result:
            return WORK[upload.kind](source, result, report)
    except SoftTimeLimitExceeded:
        raise FileError("This took longer than a task may, and was stopped. Send a smaller file.") from None


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of ``path`` when it is complete, and is gone when it is not."""
    temporary = tempfile.NamedTemporaryFile(dir=path.parent, delete=False)  # noqa: SIM115  closed before it is moved
    try:
        with temporary:
            yield temporary.file
        os.replace(temporary.name, path)
    except BaseException:
        Path(temporary.name).unlink(missing_ok=True)
        raise


@shared_task(ignore_result=True)
def delete_old() -> None:
    """Delete uploads older than a day, and the files that a process which was killed has left."""
    before = timezone.now() - KEEP_FOR
    old = Upload.objects.filter(created_at__lt=before)
    while batch := list(old.values_list("pk", flat=True)[:BATCH]):
        Upload.objects.filter(pk__in=batch).delete()
    # A file is a little older than its row, whose turn may come only tomorrow.
    stray_before = (before - KEEP_FOR).timestamp()
    for place in (folder(), Path(settings.FILE_UPLOAD_TEMP_DIR)):
        for path in place.iterdir() if place.is_dir() else ():
            if path.stat().st_mtime < stray_before:
                path.unlink(missing_ok=True)


current_app.add_periodic_task(crontab("15"), delete_old.s(), name="delete old uploads")
