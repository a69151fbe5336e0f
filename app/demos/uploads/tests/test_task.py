"""The work behind an upload: done once whole, told in words when it cannot be, and never half."""

import csv
import functools
import io
import os
import time
from datetime import timedelta

import pytest
from celery import current_app, states
from django.conf import settings as django_settings
from django.utils import timezone

from celeriac.models import TrackedTask
from demos.uploads import tasks
from demos.uploads.models import Upload
from demos.uploads.tasks import delete_old, heavy_process, start
from demos.uploads.tests.conftest import files_in, picture
from tests.waiting import eventually


def test_a_csv_file_is_summed_up(make, run):
    upload = make()
    result = run(upload)

    rows = list(csv.DictReader(io.StringIO(upload.result_path.read_text("utf-8-sig"))))
    assert (upload.state, upload.summary) == ("done", "2 rows, 2 columns")
    assert result.get() == "2 rows, 2 columns"
    assert [(row["column"], row["mean"]) for row in rows] == [("name", ""), ("age", "34")]


def test_a_picture_becomes_a_thumbnail(make, run):
    upload = make(picture(), kind="image")
    run(upload)

    assert upload.state == "done"
    assert upload.result_path.read_bytes().startswith(b"\x89PNG")


def test_it_goes_to_the_heavy_queue_is_durable_and_backs_off_with_jitter():
    route = current_app.amqp.router.route({}, heavy_process.name)

    assert route["queue"].name == "heavy_tasks"
    assert heavy_process.durable
    assert (heavy_process.retry_backoff, heavy_process.retry_jitter) == (2, True)


def test_a_malformed_file_fails_at_once_and_in_words(make, run, media):
    upload = make(b'a,b\n"1"2,3\n')
    result = run(upload)

    assert result.state == states.FAILURE
    assert (upload.state, upload.error) == ("failed", "Line 2 is no CSV: ',' expected after '\"'.")
    assert upload.file_at_fault
    assert not upload.startable
    assert files_in(media) == [str(upload.pk)]  # and nothing half done


def test_the_row_has_the_words_before_celery_says_that_it_failed(make, run, monkeypatch):
    """The page asks for the row as soon as it reads the failure."""
    monkeypatch.setattr(heavy_process, "on_failure", lambda *args: None)  # Celery's hook, which comes after
    upload = make(b'a,b\n"1"2,3\n')
    run(upload)

    assert Upload.objects.get().error


def test_a_disk_that_is_away_is_tried_again(make, run, monkeypatch):
    real, attempts = tasks.WORK["csv"], []

    def flaky(*args):
        attempts.append(args)
        if len(attempts) < 3:
            raise OSError(5, "Input/output error")
        return real(*args)

    monkeypatch.setitem(tasks.WORK, "csv", flaky)
    upload = make()
    run(upload)

    assert (len(attempts), upload.state, upload.error) == (3, "done", "")


def test_when_every_retry_is_used_up_it_can_be_started_again(make, run, monkeypatch):
    def away(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setitem(tasks.WORK, "csv", away)
    upload = make()
    run(upload)

    assert upload.state == "failed"
    assert upload.error == "It could not be processed: OSError: [Errno 5] Input/output error"
    assert upload.startable


def test_an_attempt_after_a_crash_does_the_work_again_and_replaces_the_result_whole(make, run):
    upload = make()
    upload.result_path.write_bytes(b"half of a resu")  # as a worker that was killed cannot leave it
    run(upload)

    assert upload.result_path.read_text("utf-8-sig").startswith("column,type")


def test_what_is_done_is_not_done_again(make, run):
    upload = make()
    run(upload)
    written = upload.result_path.stat().st_mtime_ns

    assert run(upload).get() == "nothing to do"
    assert upload.result_path.stat().st_mtime_ns == written


def test_a_job_from_before_it_was_started_again_by_another_does_nothing(make):
    upload = make(task_id="the newer one")

    assert heavy_process.apply([str(upload.pk)], task_id="the older one").get() == "nothing to do"
    assert Upload.objects.get().done_at is None


def test_an_upload_deleted_in_the_meantime_is_no_error_and_leaves_nothing(make, run, media, monkeypatch):
    real = tasks.WORK["csv"]

    def deleted_meanwhile(*args):
        Upload.objects.all()._raw_delete("default")
        return real(*args)

    monkeypatch.setitem(tasks.WORK, "csv", deleted_meanwhile)
    upload = make()
    attempt = functools.partial(heavy_process.apply, [str(upload.pk)], task_id=upload.task_id)

    assert attempt().successful()
    assert files_in(media) == [str(upload.pk)]  # the sent file, which went with its row if it was deleted properly
    assert attempt().get() == "nothing to do"


def test_a_file_that_is_gone_is_said_to_be(make, run):
    upload = make()
    os.unlink(upload.file.path)
    run(upload)

    assert upload.error == "The file is not there any more. Send it again."


@pytest.mark.django_db(transaction=True)
def test_whoever_starts_it_its_owner_watches_it(make, queued, django_user_model):
    mina = django_user_model.objects.create_user("mina")
    upload = make(user=mina)

    start(upload)

    assert queued() == [str(upload.pk)]
    assert TrackedTask.objects.get().user == mina
    assert TrackedTask.objects.get().task_id == Upload.objects.get().task_id


@pytest.mark.django_db(transaction=True)
def test_a_task_that_takes_too_long_is_stopped_and_says_so(make, app, start_worker, media, settings):
    """A real worker, whose soft time limit is one second, and a file that takes several."""
    worker_media = django_settings.STATE_DIR / "media"
    settings.MEDIA_ROOT, settings.FILE_UPLOAD_TEMP_DIR = worker_media, worker_media / "spool"
    before = files_in(worker_media)
    upload = make(b"a,b\n" + b"1,2\n" * 6_000_000)
    start_worker("-c", "1")
    limits = {"soft_time_limit": 1, "time_limit": 60}
    heavy_process.apply_async([str(upload.pk)], task_id=upload.task_id, queue="default", **limits)

    eventually(lambda: Upload.objects.filter(failed_at__isnull=False).exists())
    assert Upload.objects.get().error == "This took longer than a task may, and was stopped. Send a smaller file."
    assert files_in(worker_media) == sorted([*before, str(upload.pk)])
    upload.delete()


# --- Old uploads ----------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_what_is_older_than_a_day_is_deleted_with_its_files(make, run, media, monkeypatch):
    monkeypatch.setattr(tasks, "BATCH", 2)
    old, young = [make() for _ in range(5)], make()
    run(old[0])
    Upload.objects.exclude(pk=young.pk).update(created_at=timezone.now() - timedelta(hours=25))
    delete_old()

    assert list(Upload.objects.all()) == [young]
    assert files_in(media) == [str(young.pk)]


@pytest.mark.django_db
def test_files_that_nobody_owns_are_deleted_two_days_later(make, media):
    two_days_ago = time.time() - 49 * 3600
    kept = make()
    for path in (media / "uploads" / "stray", media / "spool" / "stray.upload"):
        path.touch()
        os.utime(path, (two_days_ago, two_days_ago))
    (media / "spool" / "arriving.upload").touch()
    delete_old()

    assert files_in(media) == sorted([str(kept.pk), "arriving.upload"])


def test_nothing_to_delete_is_no_error(db, media):
    delete_old()
