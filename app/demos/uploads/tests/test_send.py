"""What a visitor meets who sends a file: at once, as a stream, and with every mistake in words."""

import html
import os
import re
import time

import pytest
from django.conf import settings as django_settings
from django.db import transaction
from django.test import Client

from celeriac.models import Job
from demos.uploads import handlers, limits, views
from demos.uploads.models import Upload
from demos.uploads.tests.conftest import CSV, files_in, picture

pytestmark = pytest.mark.usefixtures("_no_posts_yet", "media")

NEITHER = "This is neither a CSV file nor a PNG, JPEG, GIF or WebP picture, whatever its name says."
NOT_UTF_8 = "This text is not in UTF-8."


def error_in(response):
    (error,) = re.findall(r'<ul class="errorlist" id="id_file_error"><li>(.*?)</li>', response.content.decode())
    return html.unescape(error)


@pytest.mark.django_db(transaction=True)
def test_a_file_is_kept_and_its_id_queued_once_the_row_is_committed(send, queued, media):
    response = send()

    upload = Upload.objects.get()
    assert (response.status_code, response["Location"]) == (302, "/uploads/")
    assert (upload.name, upload.kind, upload.size) == ("people.csv", "csv", len(CSV))
    assert (media / "uploads" / str(upload.pk)).read_bytes() == CSV
    assert queued() == [str(upload.pk)]
    assert upload.task_id == Job.objects.get().pk


@pytest.mark.django_db(transaction=True)
def test_a_file_whose_transaction_is_rolled_back_leaves_no_job(send, queued):
    with transaction.atomic():
        send()
        assert Job.objects.exists()
        assert queued() == []
        transaction.set_rollback(True)

    assert not Job.objects.exists()
    assert queued() == []


@pytest.mark.django_db(transaction=True)
def test_a_file_is_written_once_and_then_only_renamed(send, queued, media, monkeypatch):
    written = []

    class Spy(handlers.SpoolHandler):
        def file_complete(self, file_size):
            written.append(os.stat(self.file.temporary_file_path()).st_ino)
            return super().file_complete(file_size)

    monkeypatch.setattr(views, "SpoolHandler", Spy)
    send()

    assert [os.stat(path).st_ino for path in (media / "uploads").iterdir()] == written


@pytest.mark.django_db(transaction=True)
def test_a_file_is_processed_although_redis_was_away_when_it_was_sent(
    send, client, app, broker, start_worker, ended, settings
):
    worker_media = django_settings.STATE_DIR / "media"  # where a real worker looks
    settings.MEDIA_ROOT, settings.FILE_UPLOAD_TEMP_DIR = worker_media, worker_media / "spool"
    broker.stop()
    began = time.monotonic()
    send()
    assert time.monotonic() - began < 15
    upload = Upload.objects.get()
    assert f'hx-get="/tasks/{upload.task_id}/status/' in client.get("/uploads/").content.decode()

    broker.start()
    start_worker("-c", "1", "-Q", "heavy_tasks")

    assert ended(upload.task_id).state == "succeeded"
    assert "Done: 2 rows, 2 columns." in client.get("/uploads/").content.decode()
    upload.delete()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "This file is empty. Choose one with something in it."),
        (b"%PDF-1.4\na,b\n", NEITHER),
        (b"PK\x03\x04 a spreadsheet", NEITHER),
        (b"\x7fELF\x02\x01\x01\x00", NEITHER),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', NEITHER),
        (b'{"a": 1}', NEITHER),
        ("name,age\nJosé,3\n".encode("latin-1"), NOT_UTF_8),
        ("name,age\n".encode("utf-16"), NOT_UTF_8),
    ],
    ids=["empty", "PDF", "ZIP", "program", "SVG", "JSON", "Latin-1", "UTF-16"],
)
def test_what_cannot_be_processed_is_refused_by_its_content_not_its_name(send, media, content, error):
    response = send(content, name="table.csv")

    assert error_in(response).startswith(error)
    assert 'aria-invalid="true"' in response.content.decode()
    assert not Upload.objects.exists()
    assert files_in(media) == []


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_a_picture_is_known_whatever_it_is_called(send, queued, kind):
    send(picture(kind=kind), name="notes.txt")

    assert Upload.objects.get().kind == "image"


@pytest.mark.django_db
def test_a_form_without_a_file_says_what_to_choose(client):
    assert error_in(client.post("/uploads/", {})) == "Choose a file: a CSV file or a picture."


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../../etc/passwd", "passwd"),
        ("..\\..\\boot.csv", "boot.csv"),
        ("/etc/cron.d/evil.csv", "evil.csv"),
        ("<script>alert(1)<.csv", "&lt;script&gt;alert(1)&lt;.csv"),
        ("harmless\u202evsc.exe", "harmlessvsc.exe"),
    ],
)
def test_a_name_is_only_shown_and_never_a_path(send, client, queued, media, name, shown):
    send(name=name)

    upload = Upload.objects.get()
    assert files_in(media) == [str(upload.pk)]
    assert f">{shown}</h3>" in client.get("/uploads/").content.decode()


@pytest.mark.django_db
def test_a_file_named_parent_folder_is_no_file(client, media):
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename=".."\r\n\r\na,b\r\n--x--\r\n'
    response = client.post("/uploads/", body, content_type="multipart/form-data; boundary=x")

    assert error_in(response) == "Choose a file: a CSV file or a picture."
    assert files_in(media) == []


# --- CSRF: checked, although the handler is chosen before Django looks at the body -----------------------------


@pytest.mark.django_db(transaction=True)
def test_a_post_from_another_site_is_refused_and_leaves_nothing(send, media):
    by = Client(enforce_csrf_checks=True)
    by.get("/uploads/")

    assert send(by=by).status_code == 403
    assert send(by=by, Origin="https://evil.example").status_code == 403
    assert not Upload.objects.exists()
    assert files_in(media) == []


@pytest.mark.django_db(transaction=True)
def test_a_post_with_the_forms_token_is_taken(queued):
    by = Client(enforce_csrf_checks=True)
    (token,) = set(re.findall(r'csrfmiddlewaretoken" value="(\w+)"', by.get("/uploads/").content.decode()))
    body = (
        f'--x\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\n{token}\r\n'
        '--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na,b\r\n1,2\r\n--x--\r\n'
    )

    assert by.post("/uploads/", body, content_type="multipart/form-data; boundary=x").status_code == 302
    assert Upload.objects.get().name == "a.csv"


# --- Limits ---------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_what_says_that_it_is_too_large_is_refused_before_it_is_written(send, settings, media, monkeypatch):
    settings.UPLOAD_MAX_MB = 1
    monkeypatch.setattr(handlers.SpoolHandler, "new_file", lambda *args: pytest.fail("it was written"))
    response = send(b"a,b\n" * 2**19 + b"x" * limits.FORM)

    assert response.status_code == 413
    assert error_in(response) == "This file is larger than 1 MB. Send a smaller one, or a part of it."


@pytest.mark.django_db
def test_what_turns_out_to_be_too_large_is_stopped_on_the_way(send, settings, media):
    settings.UPLOAD_MAX_MB = 1
    response = send(b"a,b\n" * 2**18 + b"x")  # the form around it may have as much again, so its length passes

    assert response.status_code == 413
    assert error_in(response) == "This file is larger than 1 MB. Send a smaller one, or a part of it."
    assert files_in(media) == []


@pytest.mark.django_db(transaction=True)
def test_a_file_of_exactly_the_limit_is_taken(send, settings, queued):
    settings.UPLOAD_MAX_MB = 1

    assert send(b"a,b\n" * 2**18).status_code == 302


@pytest.mark.django_db
def test_a_picture_has_a_limit_of_its_own(send, monkeypatch):
    monkeypatch.setattr(limits, "IMAGE_MAX", limits.MB)

    assert error_in(send(picture(kind="PNG") + bytes(limits.MB))) == "A picture may have 1 MB at most."


@pytest.mark.django_db
def test_a_full_disk_is_told_before_and_while_a_file_arrives(send, media, monkeypatch):
    monkeypatch.setattr(limits, "KEEP_FREE", 2**60)
    before = send()
    monkeypatch.setattr(limits, "refusal", lambda request: None)
    meanwhile = send()

    for response in (before, meanwhile):
        assert response.status_code == 507
        assert error_in(response).startswith("There is no room for this file just now.")
    assert files_in(media) == []


@pytest.mark.django_db
def test_a_disk_that_fails_while_it_is_written_is_told_too(send, media, monkeypatch):
    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("django.core.files.uploadhandler.TemporaryUploadedFile.write", full, raising=False)

    assert error_in(send()).startswith("There is no room for this file just now.")
    assert files_in(media) == []


@pytest.mark.django_db
def test_two_files_at_a_time_are_refused(client, media):
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\na,b\r\n'
    response = client.post("/uploads/", part * 2 + b"--x--\r\n", content_type="multipart/form-data; boundary=x")

    assert error_in(response) == "Send one file at a time."
    assert files_in(media) == []


@pytest.mark.django_db
def test_a_body_of_unknown_length_is_refused(client):
    response = client.generic("POST", "/uploads/", content_type="multipart/form-data; boundary=x", CONTENT_LENGTH="")

    assert response.status_code == 411


@pytest.mark.django_db(transaction=True)
def test_a_visitor_keeps_a_few_files_and_is_told_to_delete_one(send, client, queued, monkeypatch):
    monkeypatch.setattr(limits, "KEPT_FILES", 1)
    send()
    response = send()

    assert response.status_code == 409
    assert error_in(response).endswith("Delete one first.")
    client.post(f"/uploads/{Upload.objects.get().pk}/delete/")
    assert send().status_code == 302


@pytest.mark.django_db(transaction=True)
def test_a_visitor_keeps_no_more_bytes_than_two_of_the_largest_files(send, make, client, settings, queued):
    settings.UPLOAD_MAX_MB = 1
    send()
    Upload.objects.update(size=3 * limits.MB)

    assert send().status_code == 409
    assert send(by=Client()).status_code == 302


@pytest.mark.django_db(transaction=True)
def test_too_many_posts_wait(send, settings, queued):
    settings.DEMO_POSTS_PER_MINUTE = 1
    send()
    response = send()

    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= 60
    assert error_in(response).startswith("That is a lot for one minute.")
    assert Upload.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_uploads_leave_half_of_the_threads_to_others(send, queued, settings):
    places = max(1, settings.WEB_THREADS // 2)
    for _ in range(places):
        assert limits.slots.acquire(blocking=False)
    try:
        response = send()
    finally:
        limits.slots.release(places)

    assert (response.status_code, response["Retry-After"]) == (503, "60")
    assert send().status_code == 302


@pytest.mark.django_db
def test_nginx_has_a_page_for_what_it_refuses_itself(client):
    response = client.get("/uploads/too-large/")

    assert response.status_code == 413
    assert error_in(response) == "This file is larger than 2048 MB. Send a smaller one, or a part of it."
