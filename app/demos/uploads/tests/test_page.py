"""The visitor's own files: what they see of them, and that nobody else does."""

import pytest
from celery import current_app, states
from django.test import Client
from django.utils import timezone

from celeriac.models import Job
from demos.uploads.models import Upload
from demos.uploads.tests.conftest import CSV, files_in

pytestmark = [pytest.mark.usefixtures("_no_posts_yet", "media"), pytest.mark.django_db(transaction=True)]


@pytest.fixture
def upload(send, queued, run):
    """What the visitor has sent; processed."""
    send()
    upload = Upload.objects.get()
    run(upload)
    return upload


@pytest.fixture
def stranger(send, upload):
    """Another visitor, with a file of their own."""
    client = Client()
    send(by=client, name="other.csv")
    return client


def page_of(client):
    return client.get("/uploads/").content.decode()


def test_a_reload_keeps_the_progress(send, client, queued):
    send()
    task_id = Upload.objects.get().task_id
    current_app.backend.store_result(task_id, {"done": 5, "total": 20, "note": "9 rows"}, "PROGRESS")

    for _ in range(2):
        page = page_of(client)
        assert 'max="100" value="25"' in page
        assert f'hx-get="/tasks/{task_id}/status/' in page


def test_what_is_done_has_a_link_to_its_result(client, upload):
    page = page_of(client)

    assert "Done: 2 rows, 2 columns." in page
    assert f'href="/uploads/{upload.pk}/result/"' in page
    assert "hx-trigger" not in page


def test_the_result_is_a_download_and_never_a_page(client, upload):
    response = client.get(f"/uploads/{upload.pk}/result/")

    assert response["Content-Disposition"] == 'attachment; filename="people-summary.csv"'
    assert response["Content-Type"] == "text/csv; charset=utf-8"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert "no-store" in response["Cache-Control"]
    assert b"".join(response.streaming_content).decode("utf-8-sig").startswith("column,type")


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ('"; filename=evil.exe', "filenameevil-summary.csv"),
        ("My Sales (2024).csv", "my-sales-2024-summary.csv"),
        ("销售.csv", "销售-summary.csv"),
        ("=cmd.csv", "cmd-summary.csv"),
        ("...", "upload-summary.csv"),
    ],
)
def test_a_result_is_named_after_its_file_without_its_tricks(name, result):
    assert Upload(name=name, kind="csv").result_name == result


def test_a_result_that_is_not_there_yet_is_not_found(send, client, queued):
    send()

    assert client.get(f"/uploads/{Upload.objects.get().pk}/result/").status_code == 404


def test_nobody_else_sees_it(stranger, upload):
    assert "people.csv" not in page_of(stranger)
    assert "other.csv" in page_of(stranger)
    for method, path in [("get", ""), ("get", "result/"), ("post", "start/"), ("post", "delete/")]:
        assert getattr(stranger, method)(f"/uploads/{upload.pk}/{path}").status_code == 404
    assert Upload.objects.filter(pk=upload.pk).exists()


def test_a_users_files_are_theirs_in_every_browser(send, queued, django_user_model):
    here, there = Client(), Client()
    for client in (here, there):
        client.force_login(django_user_model.objects.get_or_create(username="mina")[0])
    send(by=here)

    assert "people.csv" in page_of(there)


def test_its_owner_deletes_it_with_its_files(client, upload, media):
    assert client.get(f"/uploads/{upload.pk}/delete/").status_code == 405
    assert len(files_in(media)) == 2
    client.post(f"/uploads/{upload.pk}/delete/")

    assert "Nothing yet." in page_of(client)
    assert files_in(media) == []


def test_files_go_with_their_user(make, media, django_user_model):
    mina = django_user_model.objects.create_user("mina")
    make(user=mina)
    mina.delete()

    assert files_in(media) == []


def test_a_post_from_another_site_deletes_nothing(send, queued):
    by = Client(enforce_csrf_checks=True)
    by.cookies = send().client.cookies
    upload = Upload.objects.get()

    assert by.get(f"/uploads/{upload.pk}/").status_code == 200
    assert by.post(f"/uploads/{upload.pk}/delete/").status_code == 403
    assert by.post(f"/uploads/{upload.pk}/start/").status_code == 403


def test_what_failed_is_started_again_by_its_owner_and_by_the_same_job(send, client, queued):
    send()
    queued()
    upload = Upload.objects.get()
    Job.objects.update(state="failed", finished_at=timezone.now())
    Upload.objects.update(failed_at=timezone.now(), error="It could not be processed: OSError: no")
    client.post(f"/uploads/{upload.pk}/start/")

    assert queued() == [str(upload.pk)]
    assert [(job.pk, job.state) for job in Job.objects.all()] == [(upload.task_id, "waiting")]
    assert Upload.objects.get().state == "working"
    assert f'hx-get="/tasks/{upload.task_id}/status/' in page_of(client)


@pytest.mark.parametrize("state", ["waiting", "failed"])
def test_the_job_of_a_deleted_file_is_given_up(send, client, queued, state):
    send()
    Job.objects.update(state=state, finished_at=timezone.now() if state == "failed" else None)
    client.post(f"/uploads/{Upload.objects.get().pk}/delete/")

    assert Job.objects.get().state == "cancelled"


def test_what_is_under_way_done_or_not_to_be_mended_is_not_started_again(send, client, queued):
    send()
    queued()
    address = f"/uploads/{Upload.objects.get().pk}/start/"
    client.post(address)
    Upload.objects.update(failed_at=timezone.now(), error="Line 2 …", file_at_fault=True)
    client.post(address)
    Upload.objects.update(done_at=timezone.now())
    client.post(address)

    assert queued() == []


def test_starting_again_has_the_throttle_too(send, client, queued, settings):
    send()
    Upload.objects.update(failed_at=timezone.now())
    settings.DEMO_POSTS_PER_MINUTE = 1

    assert client.post(f"/uploads/{Upload.objects.get().pk}/start/").status_code == 429


@pytest.mark.parametrize("state", [states.FAILURE, states.REVOKED])
def test_what_a_worker_died_of_is_shown_as_failed_and_can_be_started(send, client, queued, state):
    send()
    error = RuntimeError("the worker was killed")
    current_app.backend.store_result(Upload.objects.get().task_id, error, state)

    page = page_of(client)
    assert "The worker was stopped before it was done." in page
    assert "Start again" in page


def test_the_error_is_shown_and_nothing_of_it_is_run(send, client, queued):
    send(name="<b>bold<.csv")
    Upload.objects.update(failed_at=timezone.now(), error="<script>alert(1)</script>", file_at_fault=True)

    page = page_of(client)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;b&gt;bold&lt;.csv" in page
    assert "Start again" not in page


def test_the_page_stays_out_of_caches(client):
    assert "no-store" in client.get("/uploads/")["Cache-Control"]


def test_the_size_of_what_was_sent_is_shown(client, upload):
    assert f"{len(CSV)}\xa0bytes" in page_of(client)
