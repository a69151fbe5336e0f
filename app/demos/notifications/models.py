"""A campaign, and its recipients: each row says by itself whether its mail is sent."""

import uuid

from django.db import models
from django.db.models import QuerySet

from celeriac.models import Owned


class Campaign(Owned):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    subject = models.CharField(max_length=120)
    text = models.TextField(max_length=5000)
    #: To the addresses themselves; otherwise each mail goes to the site's own mailbox, naming its recipient.
    for_real = models.BooleanField(default=False)
    task_id = models.CharField(max_length=255, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-created_at"]
        permissions = [("mail_anyone", "Can send a campaign to the addresses themselves")]

    def __str__(self) -> str:
        return self.subject

    def waiting(self) -> "QuerySet[Recipient]":
        return self.recipients.filter(sent_at=None, refused="")


class Recipient(models.Model):
    campaign = models.ForeignKey(Campaign, models.CASCADE, related_name="recipients")
    email = models.EmailField()
    sent_at = models.DateTimeField(null=True, blank=True)
    #: What the mail server said when it will never take this mail.
    refused = models.TextField(blank=True)

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["campaign", "email"], name="each_recipient_once")]

    def __str__(self) -> str:
        return self.email
