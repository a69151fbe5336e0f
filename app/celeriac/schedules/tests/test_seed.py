"""A schedule is written once; from then on it belongs to the admin."""

from datetime import timedelta

import pytest
from celery import current_app
from celery.schedules import crontab
from django_celery_beat.models import IntervalSchedule, PeriodicTask

from celeriac.schedules.seed import seed
from config.env import ConfigError

TASK = "config.tasks.debug_task"

pytestmark = pytest.mark.django_db


@pytest.fixture
def give(settings):
    current_app.loader.import_default_modules()
    before = dict(settings.CELERY_BEAT_SCHEDULE)

    def give(**entries):
        # In place: Celery holds the same object, and adds to it what the apps bring.
        settings.CELERY_BEAT_SCHEDULE.clear()
        settings.CELERY_BEAT_SCHEDULE.update(entries)

    yield give
    settings.CELERY_BEAT_SCHEDULE.clear()
    settings.CELERY_BEAT_SCHEDULE.update(before)


# --- Once in its life ----------------------------------------------------------------------------------


def test_every_entry_is_written(give):
    give(a={"task": TASK, "schedule": 60}, b={"task": TASK, "schedule": crontab("30", "3")})

    assert seed() == ["a", "b"]
    assert sorted(PeriodicTask.objects.values_list("name", "enabled")) == [("a", True), ("b", True)]


def test_an_operators_edit_outlives_the_next_start(give):
    give(a={"task": TASK, "schedule": 60})
    seed()
    PeriodicTask.objects.update(enabled=False, args="[5]")
    IntervalSchedule.objects.update(every=300)

    assert seed() == []

    row = PeriodicTask.objects.get()
    assert (row.enabled, row.args, row.interval.every) == (False, "[5]", 300)


def test_a_deleted_schedule_does_not_come_back(give):
    give(a={"task": TASK, "schedule": 60})
    seed()
    PeriodicTask.objects.get().delete()

    assert seed() == []
    assert not PeriodicTask.objects.exists()


def test_a_changed_variable_adds_what_is_new_and_nothing_else(give):
    give(a={"task": TASK, "schedule": 60})
    seed()
    give(a={"task": TASK, "schedule": 5}, b={"task": TASK, "schedule": 60})

    assert seed() == ["b"]
    assert PeriodicTask.objects.get(name="a").interval.every == 60


def test_a_schedule_that_somebody_made_under_that_name_is_left_alone(give):
    interval = IntervalSchedule.objects.create(every=7, period=IntervalSchedule.HOURS)
    PeriodicTask.objects.create(name="a", task="somebodys.own", interval=interval)
    give(a={"task": TASK, "schedule": 60})

    assert seed() == []
    assert PeriodicTask.objects.get().task == "somebodys.own"


# --- As JSON, from the environment ---------------------------------------------------------------------


def test_a_number_is_seconds(give):
    give(a={"task": TASK, "schedule": 90.0})
    seed()

    interval = PeriodicTask.objects.get().interval
    assert (interval.every, interval.period) == (90, "seconds")


def test_a_timedelta_is_an_interval(give):
    give(a={"task": TASK, "schedule": timedelta(minutes=1.5)})
    seed()

    interval = PeriodicTask.objects.get().interval
    assert (interval.every, interval.period) == (90, "seconds")


def test_an_app_may_add_its_own(give):
    give()
    current_app.add_periodic_task(crontab("0", "8"), current_app.tasks[TASK].s(), name="from an app")

    assert seed() == ["from an app"]
    assert PeriodicTask.objects.get().crontab.hour == "8"


def test_a_map_is_a_crontab(give):
    give(a={"task": TASK, "schedule": {"minute": 0, "hour": "*/2", "day_of_week": "mon-fri"}})
    seed()

    row = PeriodicTask.objects.get().crontab
    assert (row.minute, row.hour, row.day_of_week, row.day_of_month) == ("0", "*/2", "mon-fri", "*")
    assert PeriodicTask.objects.get().schedule.hour == set(range(0, 24, 2))


def test_arguments_and_options_are_kept(give):
    options = {"queue": "heavy_tasks", "expires": 30, "priority": 3}
    give(a={"task": TASK, "schedule": 60, "args": [1, "b"], "kwargs": {"c": None}, "options": options})
    seed()

    row = PeriodicTask.objects.get()
    assert (row.args, row.kwargs) == ('[1, "b"]', '{"c": null}')
    assert (row.queue, row.expire_seconds, row.priority) == ("heavy_tasks", 30, 3)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"task": TASK, "schedule": {"minute": "99"}}, "99"),
        ({"task": TASK, "schedule": {"minute": [0, 30]}}, "nvalid"),
        ({"task": TASK, "schedule": {"minutes": "5"}}, "unexpected keyword argument 'minutes'"),
        ({"task": TASK, "schedule": "*/5 * * * *"}, "neither seconds nor a map of crontab fields"),
        ({"task": TASK, "schedule": 0}, "is not a whole number of seconds"),
        ({"task": TASK, "schedule": 0.5}, "is not a whole number of seconds"),
        ({"task": TASK, "schedule": timedelta(milliseconds=1500)}, "is not a whole number of seconds"),
        ({"task": TASK, "schedule": -5}, "is not a whole number of seconds"),
        ({"task": TASK, "schedule": None}, "neither seconds nor a map of crontab fields"),
        ({"task": TASK}, "it has no 'schedule'"),
        ({"schedule": 60}, "task"),
        ({"task": TASK, "schedule": 60, "args": "abc"}, "args has to be a list and kwargs a map"),
        ({"task": TASK, "schedule": 60, "kwargs": [1]}, "args has to be a list and kwargs a map"),
        ({"task": TASK, "schedule": 60, "argz": []}, "argz"),
        ({"task": TASK, "schedule": 60, "options": {"priority": 999}}, "priority"),
        (60, "60|get"),
    ],
)
def test_a_wrong_entry_is_named_and_nothing_is_written(give, entry, reason):
    give(good={"task": TASK, "schedule": 60}, wrong=entry)

    with pytest.raises(
        ConfigError, match=rf"the entry 'wrong' of CELERY_BEAT_SCHEDULE is wrong: .*({reason})"
    ) as error:
        seed()
    assert "\n" not in str(error.value)
    assert not PeriodicTask.objects.exists()
