"""How much may be sent and kept, and whether the disk has room for it. Everything here is asked before and
while a file arrives: afterwards it is too late."""

import os
from datetime import timedelta
from threading import BoundedSemaphore
from typing import NamedTuple

from django.conf import settings
from django.db.models import Count, Sum
from django.http import HttpRequest

from demos import throttle
from demos.uploads.models import Upload

MB = 2**20
#: What a form may be larger than the file in it.
FORM = MB
IMAGE_MAX = 50 * MB
#: What one visitor may keep here at a time; bytes are those of two files of the largest size.
KEPT_FILES = 10
#: The volume may share its disk with Postgres and Redis, which stop when it is full.
KEEP_FREE = 1024 * MB
KEEP_FOR = timedelta(days=1)

# An upload holds its thread for as long as its sender takes; the others are for everybody else's pages. When
# all of them were held, this process would be taken for a stuck one, and ended (celeriac.health.web).
slots = BoundedSemaphore(max(1, settings.WEB_THREADS // 2))


class Refusal(NamedTuple):
    """Why nothing is taken in, in words for the visitor; and as HTTP says it."""

    words: str
    status: int
    retry_after: int = 0  # seconds


def max_megabytes() -> int:
    return settings.UPLOAD_MAX_MB


def max_bytes() -> int:
    return max_megabytes() * MB


def too_large() -> Refusal:
    return Refusal(f"This file is larger than {max_megabytes()} MB. Send a smaller one, or a part of it.", 413)


def disk_full() -> Refusal:
    return Refusal("There is no room for this file just now. Try again later; we make room every day.", 507)


BUSY = Refusal("Many files are arriving just now. Send yours again in a minute.", 503, retry_after=60)
ONE_FILE = Refusal("Send one file at a time.", 400)
NO_LENGTH = Refusal("Your browser did not say how large the file is, so it was not taken in.", 411)


def has_room(size: int = 0) -> bool:
    disk = os.statvfs(settings.FILE_UPLOAD_TEMP_DIR)
    return disk.f_bavail * disk.f_frsize >= size + KEEP_FREE


def refusal(request: HttpRequest) -> Refusal | None:
    """Why this post is refused before a byte of its body is read, or ``None``."""
    if seconds := throttle.seconds_to_wait(request, "uploads"):
        return Refusal(f"That is a lot for one minute. Send the file in {seconds} s.", 429, seconds)
    length = request.META.get("CONTENT_LENGTH", "")
    if not length.isdecimal():
        return NO_LENGTH
    size = int(length)
    if size > max_bytes() + FORM:
        return too_large()
    kept = Upload.objects.owned_by(request).aggregate(files=Count("pk"), size=Sum("size", default=0))
    if kept["files"] >= KEPT_FILES or kept["size"] + size > 2 * max_bytes() + FORM:
        return Refusal(
            f"You keep {kept['files']} files of {kept['size'] // MB} MB here; {KEPT_FILES} files, and "
            f"{2 * max_megabytes()} MB, are the most. Delete one first.",
            409,
        )
    return None if has_room(size) else disk_full()
