"""Feedback for staff: read all of it, and send again what did not arrive."""

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import truncatechars

from celeriac.readonly import NotAddedAdmin
from demos.feedback import tasks
from demos.feedback.models import Feedback


@admin.register(Feedback)
class FeedbackAdmin(NotAddedAdmin):
    list_display = ["email", "short_message", "state", "attempts", "created_at"]
    list_filter = [
        ("delivered_at", admin.EmptyFieldListFilter),
        ("failed_at", admin.EmptyFieldListFilter),
        "created_at",
    ]
    search_fields = ["email", "message", "id"]
    fields = (
        "id",
        "email",
        "message",
        "state",
        "attempts",
        "error",
        "created_at",
        "delivered_at",
        "failed_at",
        "task_id",
    )
    readonly_fields = fields
    actions = ["send_again"]

    @admin.display(description="message")
    def short_message(self, feedback: Feedback) -> str:
        return truncatechars(feedback.message, 60)

    @admin.action(description="Send again", permissions=["change"])
    def send_again(self, request: HttpRequest, queryset: QuerySet[Feedback]) -> None:
        chosen = {feedback.pk: feedback for feedback in queryset}
        with transaction.atomic():
            # Locked rows are skipped: a worker is sending those at this moment.
            waiting = Feedback.objects.filter(pk__in=chosen, delivered_at=None)
            again = list(waiting.select_for_update(skip_locked=True))
            tasks.send_again(again)
        if again:
            self.message_user(request, f"Queued again: {len(again)}.", messages.SUCCESS)
        if skipped := [str(chosen[pk]) for pk in chosen.keys() - {feedback.pk for feedback in again}]:
            self.message_user(
                request,
                f"Skipped, as delivered or just being sent: {len(skipped)} ({'; '.join(skipped)}).",
                messages.WARNING,
            )
