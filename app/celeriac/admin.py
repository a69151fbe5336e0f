"""Schedules in the admin: written in one form, watched in one list, run by hand; and every run with its result."""

from collections.abc import Iterable, Sequence
from typing import Any

import django_celery_beat.admin  # noqa: F401  registers what is replaced here
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.utils import unquote
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.db.models import Count, Model, OuterRef, Q, QuerySet, Subquery
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.template.defaultfilters import truncatechars
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django_celery_beat.models import (
    PERIOD_CHOICES,
    ClockedSchedule,
    CrontabSchedule,
    IntervalSchedule,
    PeriodicTask,
    PeriodicTasks,
    SolarSchedule,
)
from django_celery_results.models import TaskResult

import celeriac.jobs.admin  # noqa: F401  registers jobs
from celeriac.models import Schedule, ScheduleRun
from celeriac.readonly import ReadOnlyAdmin
from celeriac.schedules.differences import differences
from celeriac.schedules.forms import ClockedForm, CrontabForm, IntervalForm, ScheduleForm, SolarForm
from celeriac.schedules.problems import MESSAGE, in_words, problems, registered
from celeriac.schedules.runs import Unsendable, run_now
from celeriac.schedules.words import clock, describe, load_crontabs, readable_crontabs, when, zone_of
from celeriac.tracking.state import WORDS

#: How many schedules one click may run: each is sent while somebody waits for the page.
RUN_AT_ONCE = 100
#: How many are deleted in one transaction, and named on the page that asks for it.
DELETE_AT_ONCE, NAMED = 500, 100

for model in (PeriodicTask, IntervalSchedule, CrontabSchedule, ClockedSchedule, SolarSchedule):
    admin.site.unregister(model)

# The admin names its rows all over; stock's name reads the schedule, which fails for one that SQL has spoilt.
PeriodicTask.__str__ = lambda task: task.name  # type: ignore[method-assign]


class Styled(admin.ModelAdmin):
    class Media:
        css = {"all": ["celeriac/schedules.css"]}


# --- Runs and their results -----------------------------------------------------------------------------------


def attach_results(request: HttpRequest, runs: Iterable[Any]) -> None:
    """Give each run its ``result``, in one query, and the address of its page if the user may read it."""
    wanted = {run.task_id: run for run in runs}
    may_look = request.user.has_perm("django_celery_results.view_taskresult")
    for run in wanted.values():
        run.result, run.result_url, run.may_read = None, "", may_look
    for result in TaskResult.objects.filter(task_id__in=wanted):
        run = wanted[result.task_id]
        run.result = result
        if may_look:
            run.result_url = reverse("admin:django_celery_results_taskresult_change", args=[result.pk])


def state(run: Any) -> SafeString:
    """What became of a run, in a word, which leads to its result."""
    word = word_for(run)
    if run.result_url:
        return format_html('<a class="state {0}" href="{1}">{0}</a>', word, run.result_url)
    return format_html('<span class="state {0}">{0}</span>', word)


def word_for(run: Any) -> str:
    if run.error:
        return "not sent"
    if run.kind == ScheduleRun.Kind.SKIPPED:
        return "skipped"
    if not run.sent_at:
        return "waits for Redis"
    return WORDS.get(run.result.status, "running") if run.result else "sent"


class RunList(ChangeList):
    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        attach_results(request, self.result_list)


@admin.register(ScheduleRun)
class ScheduleRunAdmin(Styled, ReadOnlyAdmin):
    """What was sent, when and why; nobody edits history."""

    list_display = ["due", "periodic_task", "kind", "state", "sent", "user"]
    list_filter = ["kind", ("error", admin.EmptyFieldListFilter)]
    list_select_related = ["periodic_task", "user"]
    search_fields = ["periodic_task__name", "task_id"]
    fields = ("schedule", "due", "kind", "user", "sent", "state", "result", "error", "task_id")
    ordering = ["-pk"]
    show_full_result_count = False

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return RunList

    def get_object(self, request: HttpRequest, *args: Any) -> ScheduleRun | None:
        run = super().get_object(request, *args)
        if run:
            attach_results(request, [run])
        return run

    @admin.display(ordering="due_at")
    def due(self, run: ScheduleRun) -> SafeString:
        return clock(run.due_at)

    @admin.display(ordering="sent_at")
    def sent(self, run: ScheduleRun) -> SafeString | str:
        return clock(run.sent_at) if run.sent_at else "no"

    def state(self, run: ScheduleRun) -> SafeString:
        return state(run)

    def result(self, run: Any) -> str:
        if not run.may_read:
            return "for those who may view task results"
        return truncatechars(run.result.result, 1000) if run.result else "none yet"

    def schedule(self, run: ScheduleRun) -> SafeString:
        address = reverse("admin:django_celery_beat_periodictask_change", args=[run.periodic_task_id])
        return format_html('<a href="{}">{}</a>', address, run.periodic_task.name)


# --- Schedules ----------------------------------------------------------------------------------------------------


class ScheduleList(ChangeList):
    """The rows of one page with all that is shown of them, in as many queries for a hundred as for one."""

    model_admin: "ScheduleAdmin"

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.result_list = list(self.result_list)
        self.model_admin.attach(request, self.result_list)


class BrokenFilter(admin.SimpleListFilter):
    title = parameter_name = "broken"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [("yes", "Yes"), ("no", "No")]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        broken = Q(pk__in=Schedule.objects.exclude(broken="").values("pk"))
        return queryset.filter({"yes": broken, "no": ~broken}.get(self.value() or "", Q()))


class MissedFilter(BrokenFilter):
    title = parameter_name = "missed"

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        missed = Q(newest_kind__in=MISSED)
        never = Q(newest_kind=None)
        return queryset.filter({"yes": missed, "no": never | ~missed}.get(self.value() or "", Q()))


MISSED = (ScheduleRun.Kind.LATE, ScheduleRun.Kind.SKIPPED)


@admin.register(PeriodicTask)
class ScheduleAdmin(Styled):
    form = ScheduleForm
    change_form_template = "celeriac/schedule_form.html"
    list_display = ["name", "notes", "enabled", "next_run", "last_run", "schedule"]
    list_filter = (("enabled", admin.BooleanFieldListFilter), BrokenFilter, MissedFilter)
    search_fields = ["name", "task"]
    ordering = ["name"]
    show_full_result_count = False
    actions = ["enable_tasks", "disable_tasks", "toggle_tasks", "run_tasks"]
    readonly_fields = ["next_run", "last_run"]
    fieldsets = [
        (None, {"fields": ["name", "task", "other_task", "enabled", "description"]}),
        (
            "When",
            {
                "fields": [
                    *("interval", "crontab", "clocked", "solar"),
                    *("one_off", "on_missed", "start_time", "expires"),
                ],
            },
        ),
        ("What the task is given", {"fields": ["args", "kwargs"]}),
        ("How it is sent", {"fields": ["queue", "priority", "expire_seconds"]}),
        ("For experts", {"fields": ["headers", "exchange", "routing_key"], "classes": ["collapse"]}),
    ]

    def get_fieldsets(self, request: HttpRequest, obj: PeriodicTask | None = None) -> Any:
        now = [("Now", {"fields": ["next_run", "last_run"]})] if obj else []
        return [*now, *super().get_fieldsets(request, obj)]

    # --- reading ------------------------------------------------------------------------------------------

    def get_queryset(self, request: HttpRequest) -> QuerySet[PeriodicTask]:
        # Without the crontabs: load_crontabs reads those that break a query, too.
        runs = ScheduleRun.objects.filter(periodic_task=OuterRef("pk")).order_by("-due_at")
        return (
            super()
            .get_queryset(request)
            .select_related("interval", "clocked", "solar", "plan")
            .annotate(
                newest=Subquery(runs.values("pk")[:1]),
                newest_kind=Subquery(runs.values("kind")[:1]),
                newest_sent=Subquery(runs.exclude(sent_at=None).values("pk")[:1]),
            )
        )

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return ScheduleList

    def get_object(self, request: HttpRequest, *args: Any) -> PeriodicTask | None:
        task = super().get_object(request, *args)
        if task:
            self.attach(request, [task])
        return task

    def attach(self, request: HttpRequest, tasks: Sequence[Any]) -> None:
        """Give each task its crontab, its newest run, and the last one that was sent, with its result."""
        load_crontabs(tasks)
        runs = ScheduleRun.objects.in_bulk({pk for task in tasks for pk in (task.newest, task.newest_sent) if pk})
        attach_results(request, runs.values())
        for task in tasks:
            task.newest_run, task.sent_run = runs.get(task.newest), runs.get(task.newest_sent)

    # --- columns ------------------------------------------------------------------------------------------

    @admin.display(description="when")
    def schedule(self, task: PeriodicTask) -> str:
        return when(task)

    @admin.display(ordering="plan__next_run_at")
    def next_run(self, task: PeriodicTask) -> SafeString | str:
        """By the schedule's clock, and below it by the viewer's where that shows another time."""
        plan = getattr(task, "plan", None)
        if not task.enabled:
            return "switched off"
        if not plan:
            return "not planned yet"
        if not plan.next_run_at:
            return "none"
        zones = {str(zone): zone for zone in (zone_of(task), timezone.get_current_timezone())}
        return format_html_join("", "{}", [(clock(plan.next_run_at, zone),) for zone in zones.values()])

    def last_run(self, task: Any) -> SafeString | str:
        run = task.sent_run
        return format_html("{} {}", state(run), clock(run.sent_at)) if run else "none"

    def notes(self, task: Any) -> SafeString:
        return format_html_join(" ", '<span class="badge {}">{}</span>', self._notes(task))

    def _notes(self, task: Any) -> list[tuple[str, Any]]:
        notes: list[tuple[str, Any]] = []
        if reason := broken(task):
            unknown = not registered(task.task) and not any_task(task)
            notes.append(("broken", "task not registered" if unknown else f"broken: {reason}"))
        if task.newest_run and task.newest_run.kind in MISSED:
            became = "skipped" if task.newest_run.kind == ScheduleRun.Kind.SKIPPED else "run late"
            notes.append(("missed", format_html("missed, {}: {}", became, clock(task.newest_run.due_at))))
        if differences(task):
            notes.append(("differs", "differs from settings"))
        return notes

    # --- the page of one ------------------------------------------------------------------------------------

    # For those who may only look, where the form's own fields are missing.
    @admin.display(description="when missed")
    def on_missed(self, task: PeriodicTask) -> str | None:
        return task.plan.get_on_missed_display() if hasattr(task, "plan") else None

    @admin.display(description="Task of another app", boolean=True)
    def other_task(self, task: PeriodicTask) -> bool:
        return any_task(task)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        if task := context.get("original"):
            context |= {"broken": broken(task), "differences": differences(task)}
            if self.has_change_permission(request, task):
                context["run_url"] = reverse("admin:django_celery_beat_periodictask_run", args=[task.pk])
            if request.user.has_perm("celeriac.view_schedulerun"):
                context["runs_url"] = runs_of(task)
        return super().render_change_form(request, context, *args, **kwargs)

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.run_view)
        return [path("<path:object_id>/run/", view, name="django_celery_beat_periodictask_run"), *super().get_urls()]

    def run_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        if not self.has_change_permission(request):
            raise PermissionDenied
        if not (task := self.get_object(request, unquote(object_id))):
            raise Http404
        self._run(request, [task])
        return HttpResponseRedirect(reverse("admin:django_celery_beat_periodictask_change", args=[task.pk]))

    def save_model(self, request: HttpRequest, obj: PeriodicTask, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        form.save_plan()

    # --- actions --------------------------------------------------------------------------------------------

    @admin.action(description="Enable selected", permissions=["change"])
    def enable_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._switch(request, queryset, on=True)

    @admin.action(description="Disable selected", permissions=["change"])
    def disable_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._switch(request, queryset, off=True)

    @admin.action(description="Toggle selected", permissions=["change"])
    def toggle_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        self._switch(request, queryset, on=True, off=True)

    @admin.action(description="Run selected now", permissions=["change"])
    def run_tasks(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        if queryset.count() > RUN_AT_ONCE:
            self.message_user(request, f"Choose {RUN_AT_ONCE} at most to run at once.", messages.ERROR)
            return
        tasks = list(queryset)
        load_crontabs(tasks)
        self._run(request, tasks)

    @transaction.atomic
    def _switch(self, request: HttpRequest, queryset: QuerySet, on: bool = False, off: bool = False) -> None:
        """Switch on those that are off, and off those that are on, as asked; in a few queries for thousands."""
        now, done = timezone.now(), []
        user: Any = request.user
        chosen = PeriodicTask.objects.filter(pk__in=queryset.values("pk")).select_for_update()
        to_enable = list(chosen.filter(enabled=False)) if on else []
        to_disable = list(chosen.filter(enabled=True)) if off else []
        for tasks, enabled, fields in ((to_enable, True, {}), (to_disable, False, {"last_run_at": None})):
            if not tasks:
                continue
            changed = PeriodicTask.objects.filter(pk__in=[task.pk for task in tasks])
            changed.update(enabled=enabled, date_changed=now, **fields)  # the fields that save() would touch
            word = "on" if enabled else "off"
            LogEntry.objects.log_actions(user.pk, tasks, CHANGE, f"Switched {word}.")
            done.append(f"Switched {word}: {len(tasks)}.")
        PeriodicTasks.update_changed()  # an update tells no signal
        self.message_user(
            request, " ".join(done) or "They were so already.", messages.SUCCESS if done else messages.INFO
        )

    def _run(self, request: HttpRequest, tasks: Sequence[PeriodicTask]) -> None:
        """Run these, say where to watch, and write down who did it."""
        user: Any = request.user
        for number, task in enumerate(tasks, start=1):
            wrong = problems(task, any_task(task))
            try:
                if unsendable := {column: wrong[column] for column in MESSAGE if column in wrong}:
                    raise Unsendable(in_words(unsendable))
                run = run_now(task, user)
            except Unsendable as error:
                self.message_user(request, f"“{task.name}” cannot be run. {error}", messages.ERROR)
                continue
            self.log_change(request, task, f"Run by hand: run {run.pk}, task {run.task_id}.")
            if run.sent_at:
                self.message_user(request, format_html("“{}” runs now: {}.", task.name, link(request, run)))
            else:  # the others would wait as long for the same answer
                text = "Redis cannot be reached. “{}” is sent when it can be: {}. Not run, try again: {}."
                left = len(tasks) - number
                self.message_user(request, format_html(text, task.name, link(request, run), left), messages.WARNING)
                return

    # --- deleting -------------------------------------------------------------------------------------------

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[PeriodicTask]) -> None:
        """In batches, and the scheduler is told once: stock's signal writes to one row for each that goes."""
        ids = list(queryset.values_list("pk", flat=True))
        for start in range(0, len(ids), DELETE_AT_ONCE):
            batch = ids[start : start + DELETE_AT_ONCE]
            with transaction.atomic():
                for rows in (ScheduleRun.objects, Schedule.objects):
                    chosen = rows.filter(periodic_task__in=batch)
                    chosen._raw_delete(chosen.db)
                gone = PeriodicTask.objects.filter(pk__in=batch)
                gone._raw_delete(gone.db)
                PeriodicTasks.update_changed()

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        """Names and numbers: stock would list every run, and ask for the permission to delete each."""
        runs = ScheduleRun.objects.filter(periodic_task__in=objs).count()
        counts = {self.opts.verbose_name_plural: len(objs), ScheduleRun._meta.verbose_name_plural: runs}
        names = [str(task) for task in objs[:NAMED]]
        if len(objs) > NAMED:
            names.append(f"and {len(objs) - NAMED} more")
        return names, counts, missing(self, request), []


def broken(task: PeriodicTask) -> str:
    """Why it cannot run: what its scheduler has seen since it was saved, or would see now."""
    plan = getattr(task, "plan", None)
    return (plan.broken if plan and plan.content else "") or in_words(problems(task, any_task(task)))


def any_task(task: PeriodicTask) -> bool:
    plan = getattr(task, "plan", None)
    return bool(plan and plan.any_task)


def link(request: HttpRequest, run: ScheduleRun) -> SafeString | str:
    """To the run's page, for those who may open it."""
    if not request.user.has_perm("celeriac.view_schedulerun"):
        return f"run {run.pk}"
    address = reverse("admin:celeriac_schedulerun_change", args=[run.pk])
    return format_html('<a href="{}">run {}</a>', address, run.pk)


def runs_of(task: PeriodicTask) -> str:
    return f"{reverse('admin:celeriac_schedulerun_changelist')}?periodic_task__id__exact={task.pk}"


def missing(model_admin: admin.ModelAdmin, request: HttpRequest) -> set[str]:
    """The permissions that a deletion would need and the user has not."""
    return set() if model_admin.has_delete_permission(request) else {str(model_admin.opts.verbose_name)}


# --- Intervals, crontabs, clocked times and solar events -------------------------------------------------------


class KindAdmin(Styled):
    """Shared by any number of schedules, which are named; one that is in use is not deleted with its schedules."""

    kind: str
    list_display = ("described", "used")
    readonly_fields = ["used_by"]

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).annotate(users=Count("periodictask"))

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        fields: Any = self.form._meta.fields
        return [*fields, "used_by"] if obj else fields

    @admin.display(description="when")
    def described(self, row: Model) -> str:
        return describe(row)

    @admin.display(description="schedules")
    def used(self, row: Any) -> SafeString:
        address = f"{reverse('admin:django_celery_beat_periodictask_changelist')}?{self.kind}__id__exact={row.pk}"
        return format_html('<a href="{}">{}</a>', address, row.users)

    used_by = used

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        users = PeriodicTask.objects.filter(**{f"{self.kind}__in": [row.pk for row in objs]})
        protected = [f"schedule: {name}" for name in users.values_list("name", flat=True)]
        counts = {self.opts.verbose_name_plural: len(objs)}
        return [describe(row) for row in objs], counts, missing(self, request), protected


@admin.register(IntervalSchedule)
class IntervalAdmin(KindAdmin):
    form, kind = IntervalForm, "interval"

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).filter(period__in=dict(PERIOD_CHOICES))  # others have no name


@admin.register(CrontabSchedule)
class CrontabAdmin(KindAdmin):
    form, kind = CrontabForm, "crontab"

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        return super().get_queryset(request).filter(pk__in=readable_crontabs().values("pk"))


@admin.register(ClockedSchedule)
class ClockedAdmin(KindAdmin):
    form, kind = ClockedForm, "clocked"


@admin.register(SolarSchedule)
class SolarAdmin(KindAdmin):
    form, kind = SolarForm, "solar"
