"""What a visitor fills in: which task, with what, called how."""

from datetime import timedelta
from typing import Any

from celery import current_app
from django import forms
from django.http import HttpRequest
from django.utils import timezone

from celeriac.models import TrackedTask
from demos.widgets.models import Widget

#: Tasks in one group, chord or chain. Each is watched by itself, so each costs a request a second.
MOST_MEMBERS = 10
MOST_WIDGETS = 10
MOST_NUMBERS = 20
LARGEST = 1_000_000_000
#: Well below the visibility timeout (an hour): a task that waits longer than that is delivered twice.
LONGEST_WAIT = timedelta(minutes=30)

TASKS = ("add", "mul", "xsum", "count_widgets", "rename_widget")
OF_NUMBERS = {"add", "mul", "xsum"}
WAYS = {
    "delay": "delay: at once",
    "apply_async": "apply_async: with the options below",
    "ignore_result": "apply_async, ignore_result=True: nobody wants the answer",
    "group": "group: all at the same time",
    "chord": "chord: all at the same time, then xsum of their results",
    "chain": "chain: one after the other, each is given the result before it",
}
CANVAS = {"group", "chord", "chain"}
WITH_OPTIONS = {"apply_async", "ignore_result"}
OPTIONS = ("countdown", "eta", "expires", "queue", "priority")


def queues() -> list[tuple[str, str]]:
    return [("", "the one it is routed to"), *((name, name) for name in sorted(current_app.amqp.queues))]


class PlainForm(forms.Form):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"label_suffix": "", **kwargs})


class SecondsField(forms.IntegerField):
    def __init__(self, **kwargs: Any) -> None:
        most = int(LONGEST_WAIT.total_seconds())
        wrong = f"Write whole seconds, from {kwargs['min_value']} to {most}."
        errors = dict.fromkeys(("invalid", "min_value", "max_value"), wrong)
        super().__init__(required=False, max_value=most, error_messages=errors, **kwargs)


class NumbersField(forms.CharField):
    """Lines of whole numbers, one line for each task; a list of lists."""

    def to_python(self, value: Any) -> Any:
        lines = [line.replace(",", " ").split() for line in (super().to_python(value) or "").splitlines()]
        lines = [line for line in lines if line]
        if len(lines) > MOST_MEMBERS:
            raise forms.ValidationError(
                f"These are {len(lines)} lines, and each would be a task. Write at most {MOST_MEMBERS}."
            )
        if any(len(line) > MOST_NUMBERS for line in lines):
            raise forms.ValidationError(f"Write at most {MOST_NUMBERS} numbers on a line.")
        return [[self._number(word) for word in line] for line in lines]

    @staticmethod
    def _number(word: str) -> int:
        try:
            number = int(word)
        except ValueError:  # more than 4300 digits, too
            raise forms.ValidationError(f"“{word[:20]}” is not a whole number. Write numbers like: 2 3") from None
        if abs(number) > LARGEST:
            raise forms.ValidationError(f"“{word[:20]}” is too large. Write numbers up to {LARGEST}.")
        return number


class CallForm(PlainForm):
    """Valid, it has ``cleaned_data["calls"]``: the arguments of each task to start."""

    task = forms.ChoiceField(
        choices=[(name, name) for name in TASKS],
        error_messages={"invalid_choice": "Choose one of the tasks in the list."},
    )
    way = forms.ChoiceField(
        label="Called by",
        choices=list(WAYS.items()),
        error_messages={"invalid_choice": "Choose one of the ways in the list."},
    )
    numbers = NumbersField(
        required=False,
        initial="2 3",
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=f"For add, mul and xsum. For a group, chord or chain, a line for each task, 2 to {MOST_MEMBERS}. In "
        "a chain, the lines after the first have one number: the result before it comes first.",
    )
    widget = forms.ModelChoiceField(
        Widget.objects.none(),
        required=False,
        empty_label="none",
        help_text="For rename_widget. You can make one at the end of this page.",
        error_messages={"invalid_choice": "Choose one of your own widgets."},
    )
    name = forms.CharField(
        label="New name",
        required=False,
        max_length=100,
        help_text="For rename_widget.",
        error_messages={"max_length": "Shorten this to %(limit_value)d characters; it has %(show_value)d."},
    )
    countdown = SecondsField(min_value=0, help_text="Seconds to wait before it runs.")
    eta = forms.DateTimeField(
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local", "step": 1}, format="%Y-%m-%dT%H:%M:%S"),
        error_messages={"invalid": "Write a date and a time, like 2030-12-31T08:00:00."},
    )
    expires = SecondsField(
        min_value=1,
        help_text="Seconds after which nobody needs it any more. Less than the countdown, and it is never run.",
    )
    queue = forms.ChoiceField(
        required=False, choices=queues, error_messages={"invalid_choice": "Choose one of the queues in the list."}
    )
    priority = forms.IntegerField(
        required=False,
        min_value=0,
        max_value=9,
        help_text="0 to 9. On Redis 0 is first; on RabbitMQ it is last.",
        error_messages=dict.fromkeys(("invalid", "min_value", "max_value"), "Write a whole number from 0 to 9."),
    )

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["widget"].queryset = Widget.objects.owned_by(request)  # type: ignore[attr-defined]
        zone = timezone.get_current_timezone_name()
        self.fields["eta"].help_text = f"When to run it, in {zone}. There it is {timezone.localtime():%H:%M:%S} now."

    def of_the_task(self) -> list[forms.BoundField]:
        return [self[name] for name in self.fields if name not in OPTIONS]

    def of_apply_async(self) -> list[forms.BoundField]:
        return [self[name] for name in OPTIONS]

    def clean_eta(self) -> Any:
        eta, now = self.cleaned_data["eta"], timezone.localtime()
        if eta and eta <= now:
            raise forms.ValidationError(f"That is past: it is {now:%Y-%m-%d %H:%M:%S %Z}. Write a later time.")
        if eta and eta > now + LONGEST_WAIT:
            latest = now + LONGEST_WAIT
            raise forms.ValidationError(f"That is too far away. Write a time before {latest:%Y-%m-%d %H:%M %Z}.")
        return eta

    @property
    def options(self) -> dict[str, Any]:
        """What was given of ``apply_async``'s options; a countdown of 0 is given."""
        return {name: value for name in OPTIONS if (value := self.cleaned_data.get(name)) not in (None, "")}

    def clean(self) -> None:
        task, way = self.cleaned_data.get("task"), self.cleaned_data.get("way")
        if not task or not way:
            return
        if way not in WITH_OPTIONS:
            for option in self.options:
                self.add_error(option, "Only apply_async takes this. Choose it above, or leave this empty.")
        elif {"countdown", "eta"} <= self.options.keys():
            self.add_error("eta", "Give a countdown or an eta, not both.")
        if way in CANVAS and task not in OF_NUMBERS:
            self.add_error("task", f"A {way} here is made of numbers. Choose add, mul or xsum.")
        elif task in OF_NUMBERS and "numbers" in self.cleaned_data:
            self._clean_lines(task, way, self.cleaned_data["numbers"])
        elif task == "rename_widget":
            self._clean_rename()
        else:
            self.cleaned_data["calls"] = [[]]

    def _clean_lines(self, task: str, way: str, lines: list[list[int]]) -> None:
        if way == "chain" and task == "xsum":
            self.add_error("task", "A chain hands one number on, and xsum wants a list. Choose add or mul.")
        elif way in CANVAS and len(lines) < 2:
            self.add_error("numbers", f"Write 2 to {MOST_MEMBERS} lines: each is a task of the {way}.")
        elif way not in CANVAS and len(lines) != 1:
            self.add_error("numbers", f"Write one line of numbers: {way} starts one task.")
        elif task == "xsum":
            self.cleaned_data["calls"] = [[line] for line in lines]
        elif way == "chain" and [len(line) for line in lines] != [2] + [1] * (len(lines) - 1):
            self.add_error("numbers", "Write two numbers on the first line, and one on each that follows.")
        elif way != "chain" and any(len(line) != 2 for line in lines):
            self.add_error("numbers", f"Write two numbers on each line: {task} takes two.")
        else:
            self.cleaned_data["calls"] = lines

    def _clean_rename(self) -> None:
        widget, name = self.cleaned_data.get("widget"), self.cleaned_data.get("name")
        if not widget and "widget" not in self.errors:
            self.add_error("widget", "Choose the widget to rename.")
        if not name and "name" not in self.errors:
            self.add_error("name", "Write its new name.")
        if widget and name:
            self.cleaned_data["calls"] = [[widget.pk, name]]


class LookupForm(PlainForm):
    id = forms.CharField(
        label="Task id",
        max_length=255,
        error_messages={
            "required": "Write the id of a task you started.",
            "max_length": "No id is that long. Write the id of a task you started.",
        },
    )

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"auto_id": "lookup_%s", **kwargs})
        self.request = request

    def clean_id(self) -> str:
        task_id = self.cleaned_data["id"]
        # Somebody else's, too: whether it exists is nobody's business.
        if not TrackedTask.objects.owned_by(self.request).filter(task_id=task_id).exists():
            raise forms.ValidationError("There is no such task, or it is not yours. Copy an id from the list above.")
        return task_id


class WidgetForm(PlainForm):
    name = forms.CharField(
        label="Name of the new widget",
        max_length=100,
        error_messages={
            "required": "Write a name.",
            "max_length": "Shorten this to %(limit_value)d characters; it has %(show_value)d.",
        },
    )

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"auto_id": "widget_%s", **kwargs})
        self.request = request

    def clean_name(self) -> str:
        if Widget.objects.owned_by(self.request).count() >= MOST_WIDGETS:
            raise forms.ValidationError(f"You have {MOST_WIDGETS} widgets, and more are not needed here. Rename one.")
        return self.cleaned_data["name"]
