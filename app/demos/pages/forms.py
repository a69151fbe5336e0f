"""One address or a pasted list, checked line by line before anything is fetched."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from demos.pages.errors import PageError
from demos.pages.fetch import checked_url

MOST = 20


class AddressesField(forms.CharField):
    """Cleans to a list of different addresses."""

    def clean(self, value: Any) -> list[str]:
        lines = [(number, line.strip()) for number, line in enumerate(super().clean(value).splitlines(), start=1)]
        addresses: dict[str, None] = {}
        wrong = []
        for number, line in lines:
            try:
                if line:
                    addresses[str(checked_url(line))] = None
            except PageError as error:
                wrong.append(f"Line {number}: {error}")
        if len(addresses) > MOST:
            wrong.append(f"Send at most {MOST} different addresses at once; these are {len(addresses)}.")
        if wrong:
            raise ValidationError(wrong[:5])
        return list(addresses)


class PagesForm(forms.Form):
    addresses = AddressesField(
        label="Web addresses",
        help_text=f"One in each line, up to {MOST}. One is enough.",
        max_length=50_000,
        strip=False,  # or the first line would not be line 1 after an empty one
        error_messages={
            "required": "Write at least one address, like https://example.org.",
            "max_length": "Shorten the list to %(limit_value)d characters; it has %(show_value)d.",
        },
        widget=forms.Textarea(attrs={"rows": 6, "spellcheck": "false", "autocapitalize": "off"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"label_suffix": "", **kwargs})
        # Browsers cut a pasted list there without a word. Django keeps it and says so.
        self.fields["addresses"].widget.attrs.pop("maxlength", None)

    def clean_addresses(self) -> list[str]:
        if not self.cleaned_data["addresses"]:
            raise ValidationError(self.fields["addresses"].error_messages["required"])
        return self.cleaned_data["addresses"]
