"""How an upload reaches the disk: as a stream, and no further than it may."""

from typing import Any, NoReturn

from django.core.files.uploadhandler import StopUpload, TemporaryFileUploadHandler

from demos.uploads import limits


class SpoolHandler(TemporaryFileUploadHandler):
    """Writes the one file of a form to the volume where it is kept; ``refusal`` says why it stopped before the end.

    Stopping reads the rest of the body and drops it: an answer given earlier would meet a closed connection.
    """

    refusal: limits.Refusal | None = None

    def new_file(self, *args: Any, **kwargs: Any) -> None:
        if hasattr(self, "file"):
            self.stop(limits.ONE_FILE)
        try:
            super().new_file(*args, **kwargs)
        except OSError:
            self.stop(limits.disk_full())

    def receive_data_chunk(self, raw_data: bytes, start: int) -> None:
        if start + len(raw_data) > limits.max_bytes():
            self.stop(limits.too_large())
        # Asked again: other files arrive at the same time, and each of them found the disk empty enough.
        if not limits.has_room():
            self.stop(limits.disk_full())
        try:
            self.file.write(raw_data)
        except OSError:
            self.stop(limits.disk_full())

    def stop(self, refusal: limits.Refusal) -> NoReturn:
        self.refusal = refusal
        raise StopUpload(connection_reset=False)

    def discard(self) -> None:
        """Delete the temporary file, unless it was moved to where it is kept."""
        if hasattr(self, "file"):
            self.file.close()
