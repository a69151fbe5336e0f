"""Campaigns for staff: who got a mail, and what the mail server said of the others."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from demos.notifications.models import Campaign, Recipient


class RecipientInline(admin.TabularInline):
    model = Recipient
    fields = ("email", "sent_at", "refused")
    readonly_fields = fields
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Campaign)
class CampaignAdmin(admin.ModelAdmin):
    list_display = ["subject", "for_real", "created_at", "user"]
    list_filter = ["for_real", "created_at"]
    search_fields = ["subject", "text", "recipients__email"]
    inlines = [RecipientInline]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
