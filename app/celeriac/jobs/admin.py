"""Durable jobs in the admin: what there is and how it goes; run again, cancel, stop. Nobody edits or deletes a row."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

from celery import current_app
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE, LogEntry
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.defaultfilters import pluralize, truncatechars
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_celery_results.models import TaskResult

from celeriac.jobs import batches, is_durable, operate
from celeriac.jobs.operate import CANCELLED, RETRIED, STOPPED, State
from celeriac.models import Job
from celeriac.readonly import ReadOnlyAdmin
from celeriac.schedules.words import clock

#: How many jobs the list counts and one click acts on, so that neither takes long with a million.
MOST = 10_000
#: Batches that the list unfolds, of some 30 ms each. Only after a great many were sent are there more, for a while.
AT_ONCE = 20
#: What the list does not show and does not read.
LONG = ("message", "body", "result", "traceback")

#: On the page of one job; they send what the list's actions send.
BUTTONS = (("run_again", "Run again", RETRIED), ("cancel", "Cancel", CANCELLED), ("stop", "Stop", STOPPED))


class CountedUpTo(Paginator):
    """Counts no further than ``MOST``: counting a million rows takes longer than to read what is on the page."""

    object_list: QuerySet

    @cached_property
    def count(self) -> int:
        return self.object_list.order_by()[:MOST].count()


class JobList(ChangeList):
    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet:
        batches.unfold_all(most=AT_ONCE)
        return super().get_queryset(*args, **kwargs).defer(*LONG)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.there_are_more = self.result_count >= MOST  # said below the list


class TaskFilter(admin.SimpleListFilter):
    """The tasks that are durable now; to ask the table which ones there ever were is to read all of it."""

    title = parameter_name = "task"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        current_app.loader.init_worker()  # imports the tasks, once
        app = current_app._get_current_object()
        return [(name, name) for name in sorted(app.tasks) if is_durable(app, name)]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(task=self.value()) if self.value() else queryset


class QueueFilter(admin.SimpleListFilter):
    title = parameter_name = "queue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(name, name) for name in sorted(current_app.amqp.queues)]

    def queryset(self, request: HttpRequest, queryset: QuerySet) -> QuerySet:
        return queryset.filter(queue=self.value()) if self.value() else queryset


def at(column: str, words: str) -> Callable[[Any, Job], SafeString | str]:
    """A moment, to the second."""

    @admin.display(description=words, ordering=column)
    def moment(model_admin: Any, job: Job) -> SafeString | str:
        value = getattr(job, column)
        return clock(value) if value else "-"

    return moment


@admin.register(Job)
class JobAdmin(ReadOnlyAdmin):
    change_list_template = "celeriac/job_list.html"
    change_form_template = "celeriac/job.html"
    list_display = ("task", "status", "problem", "arguments", "tries", "created", "waited", "ran", "queue", "worker")
    list_filter = ("state", TaskFilter, QueueFilter, ("created_at", admin.DateFieldListFilter))
    search_fields = ("task", "args", "error")
    search_help_text = "An id, or a part of a task's name, of its arguments, or of an error."
    sortable_by = ("created",)
    ordering = ("-created_at",)
    paginator = CountedUpTo
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    actions = ("run_again", "cancel", "stop")
    fieldsets = (
        (None, {"fields": ("id", "task", "status", "queue", "args", "result", "task_result")}),
        ("Why", {"fields": ("error", "raised")}),
        (
            "When",
            {
                "fields": (
                    *("created", "due", "published", "started", "lease", "finished"),
                    *("waited", "ran", "worker"),
                )
            },
        ),
        ("How often", {"fields": ("attempts", "retries", "crashes")}),
        ("Its message", {"fields": ("sent", "body"), "classes": ("collapse",)}),
    )

    class Media:
        css = {"all": ["celeriac/schedules.css", "celeriac/jobs.css"]}

    # --- who may what -----------------------------------------------------------------------------------------

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """To act on jobs is Django's permission to change them; there is nothing else in them to be changed."""
        return request.user.has_perm("celeriac.change_job")

    # --- reading --------------------------------------------------------------------------------------------

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return JobList

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """One whose id is asked for is found at once; for words, the table is read."""
        if term := search_term.strip():
            batches.unfold_of([term])
            if Job.objects.filter(pk=term).exists():
                return queryset.filter(pk=term), False
        return super().get_search_results(request, queryset, search_term)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Job | None:
        batches.unfold_of([object_id])
        return super().get_object(request, object_id, from_field)

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        job = context["original"]
        if self.has_operate_permission(request):
            context["buttons"] = [(action, label) for action, label, among in BUTTONS if job.state in among]
        return super().render_change_form(request, context, *args, **kwargs)

    # --- columns --------------------------------------------------------------------------------------------

    @admin.display(description="state", ordering="state")
    def status(self, job: Job) -> SafeString:
        return format_html('<span class="state {}">{}</span>', job.state, operate.words(job))

    @admin.display(description="arguments")
    def arguments(self, job: Job) -> str:
        return truncatechars(job.args, 60)

    def tries(self, job: Job) -> str:
        return f"{job.attempts}, {job.crashes} crashed" if job.crashes else str(job.attempts)

    created = at("created_at", "created")
    due, published, started = at("due_at", "due"), at("published_at", "given to Redis"), at("started_at", "started")
    lease, finished = at("lease_until", "its worker's lease ends"), at("finished_at", "ended")

    def waited(self, job: Job) -> str:
        """Since it was due; of one that is to run again, since that was decided."""
        until = timezone.now() if job.state == State.WAITING else job.started_at
        return operate.duration(max(0.0, (until - job.due_at).total_seconds())) if until else ""

    @admin.display(description="ran for")
    def ran(self, job: Job) -> str:
        until = timezone.now() if job.state in (State.RUNNING, State.RETURNED) else job.finished_at
        return operate.duration((until - job.started_at).total_seconds()) if until and job.started_at else ""

    def problem(self, job: Job) -> str:
        return truncatechars(job.error, 80)

    # --- the page of one ------------------------------------------------------------------------------------

    @admin.display(description="traceback")
    def raised(self, job: Job) -> SafeString | str:
        return format_html("<pre>{}</pre>", job.traceback) if job.traceback else "none"

    @admin.display(description="headers and routing")
    def sent(self, job: Job) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(job.message, indent=2, ensure_ascii=False))

    @admin.display(description="Celery's result")
    def task_result(self, job: Job) -> SafeString | str:
        result = TaskResult.objects.filter(task_id=job.pk).only("pk", "status").first()
        if not result:
            return "none"
        address = reverse("admin:django_celery_results_taskresult_change", args=[result.pk])
        return format_html('<a href="{}">{}</a>', address, result.status)

    # --- actions --------------------------------------------------------------------------------------------

    @admin.action(description="Run again: failed and cancelled ones", permissions=["operate"])
    def run_again(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        self._act(request, queryset, RETRIED, operate.retry, "queued again", "failed or been cancelled")

    @admin.action(description="Cancel: waiting ones, and failed ones that are given up", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        cancel = partial(operate.cancel, reason=f"Cancelled by {request.user}.")
        self._act(request, queryset, CANCELLED, cancel, "cancelled", "been waiting or failed")

    @admin.action(description="Stop: running ones, in the middle", permissions=["operate"])
    def stop(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        cancel = partial(operate.cancel, reason=f"Stopped by {request.user}.", among=STOPPED)
        self._act(request, queryset, STOPPED, cancel, "stopped", "been running")

    def _act(
        self,
        request: HttpRequest,
        queryset: QuerySet[Job],
        among: Iterable[str],
        act: Callable[[Sequence[str]], list[Job]],
        became: str,
        condition: str,
    ) -> None:
        """Act on the selected jobs that are in one of the states ``among``, batch by batch, and say what was done."""
        others = queryset.exclude(state__in=among).order_by()[:MOST].count()
        done = silent = 0
        for ids in operate.in_batches(queryset.filter(state__in=among), MOST):
            with transaction.atomic():
                if jobs := act(ids):
                    self.log(request, jobs, f"{became.capitalize()}.")
            done += len(jobs)
            silent += len(operate.stop(jobs))
        said = f"{done:,} job{pluralize(done)} {became}."
        if others:
            said += f" {others:,} left alone, not having {condition}."
        if done == MOST:
            said += " There may be more: do it again, or use “manage.py jobs”."
        self.message_user(request, said, messages.SUCCESS if done else messages.WARNING)
        if silent:
            text = f"No worker said that it stopped {silent:,} of them: it may go on, but how it ends is not kept."
            self.message_user(request, text, messages.WARNING)

    def log(self, request: HttpRequest, jobs: Sequence[Job], message: str) -> None:
        """Who did it, at each."""
        user = cast(int, request.user.pk)
        LogEntry.objects.log_actions(user, jobs, CHANGE, message)  # type: ignore[arg-type]
