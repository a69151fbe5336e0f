"""Rows in the admin that are there to be looked at."""

from typing import Any

from django.contrib import admin
from django.db.models import Model
from django.http import HttpRequest, HttpResponse


class NotAddedAdmin(admin.ModelAdmin):
    """Rows come from elsewhere, and all of their fields are read-only: who may change them may act on them."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any
    ) -> HttpResponse:
        # Nothing can be edited, so there is nothing to save.
        context |= {"show_save": False, "show_save_and_continue": False}
        return super().render_change_form(request, context, *args, **kwargs)


class ReadOnlyAdmin(NotAddedAdmin):
    """History: nobody adds, edits or deletes any of it."""

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False
