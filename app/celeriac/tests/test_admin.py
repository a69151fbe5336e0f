"""Who may do what to periodic tasks in the admin."""

import pytest
from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission
from django_celery_beat.models import IntervalSchedule, PeriodicTask

ACTIONS = ("enable_tasks", "disable_tasks", "toggle_tasks", "run_tasks")
LIST = "/admin/django_celery_beat/periodictask/"


@pytest.fixture(autouse=True)
def _static_files_that_were_not_collected(settings):
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    settings.STORAGES = {**settings.STORAGES, "staticfiles": plain}


@pytest.fixture
def task(db):
    interval = IntervalSchedule.objects.create(every=1, period="days")
    return PeriodicTask.objects.create(
        name="switched off", task="celeriac.clear_sessions", interval=interval, enabled=False
    )


def staff(*permissions):
    user = get_user_model().objects.create_user("staff", password="x", is_staff=True)
    user.user_permissions.set(Permission.objects.filter(codename__in=permissions))
    return user


@pytest.mark.parametrize("action", ACTIONS)
def test_who_may_only_look_can_do_nothing_by_a_forged_post(client, task, action):
    client.force_login(staff("view_periodictask"))
    client.post(LIST, {"action": action, "_selected_action": [task.pk]})
    task.refresh_from_db()
    assert not task.enabled
    assert not any(f'value="{name}"' in client.get(LIST).content.decode() for name in ACTIONS)


def test_who_may_change_can_switch_a_task_on(client, task):
    client.force_login(staff("view_periodictask", "change_periodictask"))
    client.post(LIST, {"action": "enable_tasks", "_selected_action": [task.pk]})
    task.refresh_from_db()
    assert task.enabled
