"""Durable jobs in the admin: what there is and how it goes; run again, cancel, stop. Nobody edits or deletes a row."""

import json
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from celery import current_app
from django.contrib import admin, messages
from django.contrib.admin.models import CHANGE
from django.contrib.admin.views.main import ChangeList
from django.core.paginator import Paginator
from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import pluralize, truncatechars
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django_celery_results.models import TaskResult

from celeriac.jobs import is_durable, operate
from celeriac.models import Job
from celeriac.schedules.words import clock

#: How many jobs the list counts and one click acts on, so that neither takes long with a million.
MOST = 10_000
#: What the list does not show and does not read.
LONG = ("message", "body", "result", "traceback")


class CountedUpTo(Paginator):
    """Counts no further than ``MOST``: counting a million rows takes longer than to read what is on the page."""

    @cached_property
    def count(self) -> int:
        return self.object_list.order_by()[:MOST].count()


class JobList(ChangeList):
    def get_queryset(self, *args: Any, **kwargs: Any) -> QuerySet:
        return super().get_queryset(*args, **kwargs).defer(*LONG)

    def get_results(self, request: HttpRequest) -> None:
        super().get_results(request)
        self.there_are_more = self.result_count >= MOST  # said below the list


class TaskFilter(admin.SimpleListFilter):
    """The tasks that are durable now; to ask the table which ones there ever were is to read all of it."""

    title = parameter_name = "task"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        current_app.loader.import_default_modules()
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


class JobAdmin(admin.ModelAdmin):
    change_list_template = "celeriac/job_list.html"
    list_display = ("task", "status", "queue", "arguments", "tries", "created", "waited", "ran", "worker", "problem")
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
        (None, {"fields": ("id", "task", "status", "queue", "args", "outcome")}),
        ("Why", {"fields": ("error", "trace")}),
        (
            "When",
            {"fields": ("created", "due", "published", "started", "finished", "waited", "ran", "worker", "lease")},
        ),
        ("How often", {"fields": ("attempts", "retries", "crashes")}),
        ("Its message", {"fields": ("headers", "payload"), "classes": ("collapse",)}),
    )

    class Media:
        css = {"all": ["celeriac/schedules.css", "celeriac/jobs.css"]}

    # --- who may what -----------------------------------------------------------------------------------------

    def has_operate_permission(self, request: HttpRequest) -> bool:
        """To act on jobs is Django's permission to change them; there is nothing else in them to be changed."""
        return request.user.has_perm("celeriac.change_job")

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    # --- reading --------------------------------------------------------------------------------------------

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return JobList

    def get_search_results(self, request: HttpRequest, queryset: QuerySet, search_term: str) -> tuple[QuerySet, bool]:
        """One whose id is asked for is found at once; for words, the table is read."""
        if search_term and Job.objects.filter(pk=search_term.strip()).exists():
            return queryset.filter(pk=search_term.strip()), False
        return super().get_search_results(request, queryset, search_term)

    # --- actions --------------------------------------------------------------------------------------------

    @admin.action(description="Run again (failed or cancelled)", permissions=["operate"])
    def run_again(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        done = self._act(request, queryset, operate.retry, "Run again.")
        self._say(request, queryset, len(done), "queued again", "have neither failed nor been cancelled")

    @admin.action(description="Cancel (waiting), give up (failed)", permissions=["operate"])
    def cancel(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        done = self._act(request, queryset, lambda ids: operate.cancel(ids, by(request)), "Cancelled.")
        self._say(request, queryset, len(done), "cancelled", "neither wait nor have failed")

    @admin.action(description="Stop (running): kill the process", permissions=["operate"])
    def stop(self, request: HttpRequest, queryset: QuerySet[Job]) -> None:
        running = [operate.State.RUNNING]
        done = self._act(request, queryset, lambda ids: operate.cancel(ids, by(request), running), "Stopped.")
        stopped = operate.stop(done)
        self._say(request, queryset, len(done), "cancelled while running", "are not running")
        if left := len(done) - len(stopped):
            text = (
                f"{left} of these had no worker that answered: it may still be at work. "
                "What it writes at the end is dropped."
            )
            self.message_user(request, text, messages.WARNING)

    def _act(
        self, request: HttpRequest, queryset: QuerySet[Job], act: Callable[[Sequence[str]], list[Job]], log: str
    ) -> list[Job]:
        """Act on the selected ones, batch by batch, each with who did it."""
        done = []
        for ids in operate.in_batches(queryset, MOST):
            with transaction.atomic():
                jobs = act(ids)
                self.log_actions(request, jobs, CHANGE, log)
            for job in jobs:
                job.message, job.body, job.traceback = {}, "", ""  # 10,000 of them are not kept in memory
            done += jobs
        return done

    def log_actions(self, request: HttpRequest, queryset: Any, *args: Any, **kwargs: Any) -> None:
        if queryset:  # stock fails for none
            super().log_actions(request, queryset, *args, **kwargs)

    def _say(self, request: HttpRequest, queryset: QuerySet[Job], done: int, became: str, why_not: str) -> None:
        """What was done, and what was not."""
        selected = self._selected(request, queryset)
        text = f"{done:,} job{pluralize(done)} {became}."
        if left := selected - done:
            text += f" {left:,} left as {pluralize(left, 'it is,they are')}: only those that are meant are touched."
        self.message_user(request, text, messages.SUCCESS if done else messages.WARNING)
