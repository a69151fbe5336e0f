"""A subject, a text, and addresses that are read line by line."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.http import HttpRequest
from django.template.defaultfilters import truncatechars

from demos.feedback.forms import MessageField
from demos.notifications.models import Campaign

MOST = 50
#: All mails of strangers end in the mailbox of the site's owner, who should still find the others there.
MOST_OF_A_STRANGER = 10
#: Nobody's, for ever: RFC 2606, section 3.
RESERVED = ("example.org", "example.net", "example.com")
SHOWN_ERRORS = 5


class CampaignForm(forms.ModelForm):
    addresses = MessageField(
        max_length=20_000,
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false"}),
        label="Addresses, one on each line",
        error_messages={"required": "Write at least one address."},
    )

    class Meta:
        model = Campaign
        fields = ["subject", "text", "addresses", "for_real"]
        field_classes = {"text": MessageField}
        widgets = {"text": forms.Textarea(attrs={"rows": 5})}
        labels = {"subject": "Subject", "text": "Text", "for_real": "Send to these addresses for real"}
        help_texts = {"for_real": "Otherwise all mails go to the site's own mailbox."}
        error_messages = {
            "subject": {
                "required": "Write a subject; people decide by it what to read.",
                "max_length": "Shorten this to %(limit_value)d characters; it has %(show_value)d.",
            },
            "text": {
                "required": "Write what they should read.",
                "max_length": "Shorten this to %(limit_value)d characters; it has %(show_value)d.",
            },
        }

    def __init__(self, request: HttpRequest, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"label_suffix": "", **kwargs})
        self.most = MOST if request.user.is_authenticated else MOST_OF_A_STRANGER
        if not request.user.has_perm("notifications.mail_anyone"):
            del self.fields["for_real"]  # and a forged one is not looked at
        self.fields["addresses"].help_text = (
            f"At most {self.most}, of {RESERVED[0]}, {RESERVED[1]} or {RESERVED[2]}. "
            "An address that is there twice gets one mail."
        )

    def clean_subject(self) -> str:
        return " ".join(self.cleaned_data["subject"].split())  # a line break would begin another header

    def clean(self) -> dict[str, Any]:
        data = super().clean() or self.cleaned_data
        if "addresses" in data:
            addresses, errors = read_addresses(data["addresses"], anyones=data.get("for_real", False))
            if len(addresses) > self.most:
                errors = [f"These are {len(addresses)} addresses; leave at most {self.most}.", *errors]
            if len(errors) > SHOWN_ERRORS:
                errors[SHOWN_ERRORS:] = [f"And {len(errors) - SHOWN_ERRORS} more lines like these."]
            if errors:
                self.add_error("addresses", [ValidationError(error) for error in errors])
            data["addresses"] = addresses
        return data


def read_addresses(text: str, anyones: bool) -> tuple[list[str], list[str]]:
    """The addresses, each once, and what is wrong with which line."""
    addresses: dict[str, str] = {}
    errors = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (address := line.strip()):
            continue
        try:
            validate_email(address)
        except ValidationError:
            errors.append(f"Line {number}: write {truncatechars(address, 60)} like name@example.org.")
            continue
        if not anyones and address.rpartition("@")[2].lower() not in RESERVED:
            errors.append(f"Line {number}: {address} may be somebody's; write one like name@example.org.")
        addresses.setdefault(address.casefold(), address)
    return list(addresses.values()), errors
