"""Uploads for staff: see what was sent and what became of it, and start again what failed."""

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from celeriac.readonly import NotAddedAdmin
from demos.uploads.models import Upload
from demos.uploads.tasks import start


@admin.register(Upload)
class UploadAdmin(NotAddedAdmin):
    list_display = ["name", "kind", "size", "state", "user", "created_at"]
    list_select_related = ["user"]
    list_filter = [
        "kind",
        ("done_at", admin.EmptyFieldListFilter),
        ("failed_at", admin.EmptyFieldListFilter),
        "created_at",
    ]
    search_fields = ["name", "id", "task_id"]
    # Not `file`, which would be a link: what a visitor sent is theirs.
    fields = (
        "id",
        "name",
        "kind",
        "size",
        "state",
        "summary",
        "error",
        "user",
        "visitor",
        "created_at",
        "done_at",
        "failed_at",
        "task_id",
    )
    readonly_fields = fields
    actions = ["start_again"]

    @admin.action(description="Start again", permissions=["change"])
    def start_again(self, request: HttpRequest, queryset: QuerySet[Upload]) -> None:
        startable = {upload: upload.startable for upload in queryset}
        started = [upload for upload, can_be in startable.items() if can_be]
        for upload in started:
            start(upload)
        if started:
            self.message_user(request, f"Started: {len(started)}.", messages.SUCCESS)
        if skipped := [str(upload) for upload, can_be in startable.items() if not can_be]:
            self.message_user(
                request,
                f"Skipped, as done, under way, or not to be mended: {len(skipped)} ({'; '.join(skipped)}).",
                messages.WARNING,
            )
