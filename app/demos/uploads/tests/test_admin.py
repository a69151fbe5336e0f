"""What staff can do with uploads, and cannot."""

import pytest
from django.utils import timezone

from celeriac.models import Job
from demos.uploads.models import Upload

pytestmark = pytest.mark.django_db(transaction=True)
LIST = "/admin/uploads/upload/"


@pytest.fixture
def staff(client, sign_in):
    """The browser of a member of staff who may do ``permissions`` with uploads."""

    def staff(*permissions):
        sign_in(*(f"{permission}_upload" for permission in permissions))
        return client

    return staff


def start_again(client, *uploads):
    data = {"action": "start_again", "_selected_action": [str(upload.pk) for upload in uploads]}
    return client.post(LIST, data, follow=True).content.decode()


def test_what_failed_is_started_and_what_is_done_is_not(staff, make, queued):
    failed, done = make(failed_at=timezone.now()), make(name="done.csv", done_at=timezone.now())
    page = start_again(staff("view", "change"), failed, done)

    assert queued() == [str(failed.pk)]
    assert "Started: 1." in page
    assert "Skipped, as done, under way, or not to be mended: 1 (done.csv)." in page


@pytest.mark.usefixtures("broker_away")
def test_it_can_be_started_while_the_broker_is_away(staff, make):
    assert "Started: 1." in start_again(staff("view", "change"), make(failed_at=timezone.now()))
    assert Job.objects.get().state == "waiting"


def test_who_may_only_look_cannot_start(staff, make, queued):
    start_again(staff("view"), make(failed_at=timezone.now()))

    assert queued() == []


def test_nothing_can_be_edited_or_added_and_no_file_is_linked(staff, make):
    client, upload = staff("view", "add", "change"), make()
    page = client.get(f"{LIST}{upload.pk}/change/").content.decode()
    client.post(f"{LIST}{upload.pk}/change/", {"name": "other"})

    assert Upload.objects.get().name == "people.csv"
    assert 'name="_save"' not in page
    assert 'href="/uploads/' not in page
    assert client.get(f"{LIST}add/").status_code == 403


def test_the_list_says_the_state(staff, make):
    make()

    assert '<td class="field-state">working</td>' in staff("view").get(LIST).content.decode()
