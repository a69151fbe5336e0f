"""A disk of their own, files to send, and a look into the queue heavy_tasks."""

import io

import pytest
from celery import current_app
from celery.utils import uuid
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import SimpleUploadedFile
from PIL import Image

from celeriac.conftest import await_answers
from demos.uploads.models import Upload
from demos.uploads.tasks import heavy_process

CSV = b"name,age\nMina,41\nNoor,27\n"


@pytest.fixture
def media(settings, tmp_path):
    """Where files are kept; what is under way is in ``spool``."""
    settings.MEDIA_ROOT = tmp_path / "media"
    settings.FILE_UPLOAD_TEMP_DIR = settings.MEDIA_ROOT / "spool"
    settings.FILE_UPLOAD_TEMP_DIR.mkdir(parents=True)
    return settings.MEDIA_ROOT


@pytest.fixture
def queued(media):
    """The ids of the uploads whose tasks are in the broker's queue: ``queued()`` takes them out."""
    with current_app.connection_for_write() as connection:
        channel = connection.default_channel

        def take():
            await_answers()
            messages = iter(lambda: channel.basic_get("heavy_tasks", no_ack=True), None)
            return [m.payload[0][0] for m in messages if m.headers["task"] == heavy_process.name]

        take()
        yield take
        take()


@pytest.fixture
def send(client):
    """Send a file with the form, as ``client`` or somebody else."""

    def post(content=CSV, name="people.csv", by=client, **headers):
        return by.post("/uploads/", {"file": SimpleUploadedFile(name, content)}, headers=headers)

    return post


@pytest.fixture
def make(media, db):
    """An upload that is here already."""

    def upload(content=CSV, name="people.csv", kind="csv", **fields):
        fields = {"task_id": uuid(), "size": len(content), "file": ContentFile(content, name), **fields}
        return Upload.objects.create(name=name, kind=kind, **fields)

    return upload


@pytest.fixture
def run():
    """Run the real task here and now; its retries follow without their pauses."""

    def apply(upload):
        result = heavy_process.apply([str(upload.pk)], task_id=upload.task_id)
        upload.refresh_from_db()
        return result

    return apply


def picture(size=(1200, 800), kind="JPEG", mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size, 0).save(file, kind, **options)
    return file.getvalue()


def files_in(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())
