"""The forms in which schedules are written; a mistake is shown at its field, with what to write instead."""

from typing import Any

from celery import current_app
from django import forms
from django.contrib import admin
from django.contrib.admin.widgets import AdminSplitDateTime, AutocompleteMixin
from django.core.exceptions import ValidationError
from django.db.models import Q
from django.utils import timezone
from django_celery_beat.models import (
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    SolarSchedule,
)

from celeriac.models import Schedule
from celeriac.schedules.problems import (
    CRONTAB,
    KINDS,
    crontab_field_problem,
    crontab_problems,
    interval_problems,
    problems,
    queue_names,
    registered,
    routed,
    solar_problems,
    task_names,
)
from celeriac.schedules.words import describe, readable_crontabs


class SearchableSelect(forms.Select):
    """A list with the admin's search box; a plain list without JavaScript."""

    def __init__(self) -> None:
        super().__init__(attrs={"class": "searchable"})

    @property
    def media(self) -> forms.Media:
        select2 = AutocompleteMixin(None, admin.site).media  # its files, and none of its requests
        return select2 + forms.Media(js=["admin/js/jquery.init.js", "celeriac/searchable.js"])


class MomentWidget(AdminSplitDateTime):
    """The admin's date and time, each with a name for a screen reader."""

    def __init__(self, label: str) -> None:
        super().__init__()
        for widget, part in zip(self.widgets, ("date", "time"), strict=True):
            widget.attrs["aria-label"] = f"{label}, {part}"


#: What the form writes into the periodic task itself.
COLUMNS = [
    *("name", "task", "enabled", "description", *KINDS, "one_off", "start_time", "expires"),
    *("args", "kwargs", "queue", "priority", "expire_seconds", "headers", "exchange", "routing_key"),
]


class ScheduleForm(forms.ModelForm):
    """A periodic task, with what its scheduler has to know beside it."""

    task = forms.CharField(
        required=False,
        widget=SearchableSelect,
        help_text="The arrow shows the queue of those that are not routed to the default one.",
    )
    other_task = forms.CharField(
        label="Task of another app",
        required=False,
        help_text="Its full name, like shop.tasks.send_invoices, for a task that this app does not have. Whether "
        "it exists and what it takes cannot be checked here.",
    )
    on_missed = Schedule._meta.get_field("on_missed").formfield()

    class Meta:
        model = PeriodicTask
        fields = COLUMNS
        labels = {
            "args": "Arguments",
            "kwargs": "Keyword arguments",
            "headers": "Message headers",
            "interval": "Interval",
            "crontab": "Crontab",
            "clocked": "Clocked time",
            "solar": "Solar event",
            "one_off": "Once only",
            "start_time": "Starts",
            "expires": "Ends",
            "expire_seconds": "Expires after",
            "queue": "Queue",
        }
        help_texts = {
            "name": "What you call it; it is kept with every result.",
            "args": 'A JSON list: ["report.csv", 3]',
            "kwargs": 'A JSON object: {"name": "report.csv"}',
            "headers": 'A JSON object: {"tenant": "acme"}',
            "interval": "Every so often. Choose one of these four.",
            "crontab": "At times of the clock and the calendar, in a time zone.",
            "clocked": "Once, at a date and time to come.",
            "solar": "When the sun does something, at a place.",
            "one_off": "Switches itself off after its next run. A clocked time always does.",
            "start_time": "No run before this.",
            "expires": "No run from this time on.",
            "queue": "“As routed” is where CELERY_TASK_ROUTES sends the task.",
            "description": "",
            "expire_seconds": "Seconds; a run that no worker has begun by then is dropped.",
            "priority": "From 0, which is first, to 9; empty is 0.",
            "enabled": "",
            "exchange": "For brokers other than Redis. Choose a queue instead.",
            "routing_key": "For brokers other than Redis. Choose a queue instead.",
        }
        widgets = {
            "args": forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
            "kwargs": forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
            "headers": forms.Textarea(attrs={"rows": 2, "spellcheck": "false"}),
            "description": forms.Textarea(attrs={"rows": 2}),
            "start_time": MomentWidget("Starts"),
            "expires": MomentWidget("Ends"),
        }
        field_classes = dict.fromkeys(("start_time", "expires"), forms.SplitDateTimeField)
        error_messages = {
            "name": {"required": "Write a name for it.", "unique": "Another schedule has this name: write another."},
            "priority": {"invalid": "Write a whole number from 0 to 9."},
            "expire_seconds": {"invalid": "Write a whole number of seconds."},
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        plan = getattr(self.instance, "plan", None)
        if plan:
            self.initial["on_missed"] = plan.on_missed
            if plan.any_task:
                self.initial.update(task="", other_task=self.instance.task)
        if "queue" not in self.fields:  # for those who may only look, the admin shows texts instead
            return
        self.fields["task"].widget.choices = self._tasks()
        self._offer_queues()
        self._offer_schedules()

    # --- what can be chosen ---------------------------------------------------------------------------------

    def _tasks(self) -> list[tuple[str, str]]:
        default = current_app.conf.task_default_queue
        choices = [("", "---------")]
        for name in task_names():
            queue = routed(name)
            choices.append((name, name if queue == default else f"{name} → {queue or 'no queue'}"))
        current = self.data.get(self.add_prefix("task")) or self.initial.get("task")
        if current and current not in task_names():  # one of Celery's own, or one that a deploy has dropped
            choices.append((current, current if registered(current) else f"{current} (not in this app)"))
        return choices

    def _offer_queues(self) -> None:
        choices = [(name, name) for name in queue_names()]
        if (current := self.instance.queue) and current not in queue_names():
            choices.append((current, f"{current} (does not exist)"))
        as_routed = routed(self.instance.task) if self.instance.task else ""
        choices.insert(0, ("", f"as routed: {as_routed}" if as_routed else "as routed"))
        self.fields["queue"].widget = forms.Select(choices=choices)

    def _offer_schedules(self) -> None:
        to_come = Q(clocked_time__gt=timezone.now()) | Q(pk=self.instance.clocked_id)
        fields: Any = self.fields
        fields["crontab"].queryset = readable_crontabs()
        fields["clocked"].queryset = ClockedSchedule.objects.filter(to_come)
        for kind in KINDS:
            fields[kind].label_from_instance = describe
            fields[kind].error_messages["invalid_choice"] = "Choose another one: this has passed, or is gone."

    # --- what is wrong ----------------------------------------------------------------------------------------

    def clean_args(self) -> str:
        return self.cleaned_data["args"].strip() or "[]"

    def clean_kwargs(self) -> str:
        return self.cleaned_data["kwargs"].strip() or "{}"

    def clean_headers(self) -> str:
        return (self.cleaned_data["headers"] or "").strip() or "{}"

    def clean_priority(self) -> int | None:
        priority = self.cleaned_data["priority"]
        if priority is not None and priority > 9:
            raise ValidationError("Write a number from 0 to 9: with Redis, all above are the same as 9.")
        return priority

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        task, other = data.get("task", ""), data.get("other_task", "")
        if task and other:
            self.add_error("other_task", "Empty this, or the list above: a schedule has one task.")
        data["task"] = task or other
        if data.get("clocked"):
            data["one_off"] = True  # there is no other answer
        written = PeriodicTask(**{name: data[name] for name in COLUMNS if name in data})
        found = {**problems(written, any_task=self.any_task), **self._too_late(written)}
        if other and "task" in found:
            found["other_task"] = found.pop("task")
        if self._schedule_is_wrong():  # then problems() does not see it
            found = {field: sentence for field, sentence in found.items() if field not in KINDS}
        for field, sentence in found.items():
            if not self.has_error(field):
                self.add_error(field, sentence)
        return data

    @property
    def any_task(self) -> bool:
        """Whether another app has the task."""
        other = self.cleaned_data.get("other_task", "")
        return bool(other) and not registered(other)

    def _too_late(self, written: PeriodicTask) -> dict[str, str]:
        """Times that have passed; those of a schedule that has run may stay."""
        now = timezone.now()
        found = {}
        if written.clocked and self._decides("clocked") and written.clocked.clocked_time <= now:
            found["clocked"] = "Choose a time that is still to come."
        if written.expires and self._decides("expires") and written.expires <= now:
            found["expires"] = "Choose a time that is still to come, or empty this."
        return found

    def _decides(self, field: str) -> bool:
        switched_on = "enabled" in self.changed_data and bool(self.cleaned_data.get("enabled"))
        return self.instance.pk is None or field in self.changed_data or switched_on

    def _schedule_is_wrong(self) -> bool:
        return any(kind in self.errors for kind in KINDS)

    def validate_unique(self) -> None:
        # PeriodicTask's own also looks at the schedules, and complains at no field.
        if not self._schedule_is_wrong():
            super().validate_unique()

    def save(self, commit: bool = True) -> PeriodicTask:
        task = super().save(commit)
        if commit:
            self.save_plan()
        return task

    def save_plan(self) -> None:
        """What the scheduler has to know beside the periodic task, which is saved before."""
        # Without its fingerprint the scheduler looks at it anew: what was broken may not be any more.
        plan = {"on_missed": self.cleaned_data["on_missed"], "any_task": self.any_task, "content": ""}
        Schedule.objects.update_or_create(periodic_task=self.instance, defaults=plan)


# --- The four kinds, as a window over that form ---------------------------------------------------------------


class KindForm(forms.ModelForm):
    """Asks before the model's own validators do, which say what is wrong and not what to write."""

    def wrong(self, row: Any) -> dict[str, str]:
        raise NotImplementedError

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        for field, sentence in self.wrong(self._meta.model(**data)).items():
            self.add_error(field, sentence)
        return data


class IntervalForm(KindForm):
    class Meta:
        model = IntervalSchedule
        fields = ["every", "period"]
        error_messages = {
            "every": dict.fromkeys(("required", "invalid"), "Write a whole number, 1 or more."),
            "period": {"required": "Choose a unit."},
        }

    def wrong(self, row: IntervalSchedule) -> dict[str, str]:
        return {} if self.errors else interval_problems(row)


class CrontabForm(KindForm):
    class Meta:
        model = CrontabSchedule
        fields = [*CRONTAB, "timezone"]
        help_texts = {field: f"{counts[0].upper()}{counts[1:]}; * for all." for field, (counts, *_) in CRONTAB.items()}
        help_texts["timezone"] = "Whose clock it goes by."
        error_messages = {
            field: {"required": f"Write {counts}, or * for all."} for field, (counts, *_) in CRONTAB.items()
        }

    def wrong(self, row: CrontabSchedule) -> dict[str, str]:
        wrong = {field: crontab_field_problem(row, field) for field in CRONTAB if field in self.cleaned_data}
        wrong = {field: sentence for field, sentence in wrong.items() if sentence}
        return wrong if wrong or self.errors else crontab_problems(row)


class ClockedForm(KindForm):
    class Meta:
        model = ClockedSchedule
        fields = ["clocked_time"]
        widgets = {"clocked_time": MomentWidget("Clock time")}
        field_classes = {"clocked_time": forms.SplitDateTimeField}

    def wrong(self, row: ClockedSchedule) -> dict[str, str]:
        if "clocked_time" not in self.changed_data or self.errors or row.clocked_time > timezone.now():
            return {}
        return {"clocked_time": "Choose a time that is still to come."}


class SolarForm(KindForm):
    class Meta:
        model = SolarSchedule
        fields = ["event", "latitude", "longitude"]

    def wrong(self, row: SolarSchedule) -> dict[str, str]:
        return {} if self.errors else solar_problems(row)
