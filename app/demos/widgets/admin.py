"""Widgets for staff."""

from django.contrib import admin

from demos.widgets.models import Widget


@admin.register(Widget)
class WidgetAdmin(admin.ModelAdmin):
    list_display = ["name", "user"]
    list_select_related = ["user"]
    search_fields = ["name"]
    readonly_fields = ["user"]
