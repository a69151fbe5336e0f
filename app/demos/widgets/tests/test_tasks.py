"""What the tasks do by themselves."""

import pytest

from demos.widgets.models import Widget
from demos.widgets.tasks import add, count_starts, count_widgets, mul, rename_widget, xsum


def test_the_tasks_of_celerys_example_give_its_results():
    assert add.apply([4, 4]).get() == 8
    assert mul.apply([4, 4]).get() == 16
    assert xsum.apply([[1, 2, 3]]).get() == 6


@pytest.mark.django_db
def test_widgets_are_counted():
    Widget.objects.bulk_create(Widget(name=name) for name in "abc")

    assert count_widgets.apply().get() == 3


@pytest.mark.django_db
def test_a_rename_leaves_what_others_changed_meanwhile():
    widget = Widget.objects.create(name="old", visitor="a")
    Widget.objects.update(visitor="b")
    for _ in range(2):  # a queue delivers at least once
        assert rename_widget.apply([widget.pk, "new"]).get() == "new"

    widget.refresh_from_db()
    assert (widget.name, widget.visitor) == ("new", "b")


@pytest.mark.django_db
def test_a_widget_that_is_gone_fails_by_name():
    result = rename_widget.apply([7, "new"])

    assert result.failed()
    assert str(result.result) == "Widget 7 has been deleted."


def test_starts_are_counted_for_each_second_and_worker():
    starts = [("a", 100.7), ("a", 100.5), ("b", 101.4), ("a", 101.6), ("a", 102.4)]

    assert count_starts([{"worker": worker, "at": at} for worker, at in starts]) == [
        {"second": 1, "worker": "a", "started": 2},
        {"second": 1, "worker": "b", "started": 1},
        {"second": 2, "worker": "a", "started": 2},
    ]
