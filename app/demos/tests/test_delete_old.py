"""What visitors leave behind goes after a week."""

from datetime import timedelta

import pytest
from django.apps import apps
from django.utils import timezone

from demos.feedback.models import Feedback
from demos.tasks import KEEP_FOR, LEFT_BEHIND, delete_old

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_it_goes_after_a_week_and_not_before(name):
    rows = apps.get_model(name)._base_manager
    fields = {"delivered_at": timezone.now()} if name.startswith("feedback") else {}
    old, young = rows.create(**fields), rows.create(**fields)
    rows.filter(pk=old.pk).update(created_at=timezone.now() - KEEP_FOR - timedelta(minutes=1))

    delete_old()

    assert list(rows.all()) == [young]


def test_a_feedback_that_nobody_has_had_stays():
    Feedback.objects.create()
    Feedback.objects.update(created_at=timezone.now() - 2 * KEEP_FOR)

    delete_old()

    assert Feedback.objects.exists()
