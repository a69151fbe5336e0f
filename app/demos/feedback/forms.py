"""What a visitor fills in."""

from typing import Any

from django import forms

from demos.feedback.models import Feedback


class MessageField(forms.CharField):
    """Counts a line break as one character, as the visitor does; browsers send two."""

    def to_python(self, value: Any) -> str:
        return (super().to_python(value) or "").replace("\r\n", "\n")

    def widget_attrs(self, widget: forms.Widget) -> dict[str, Any]:
        # No `maxlength`: browsers cut a pasted text there without a word. Django keeps it and says so.
        return {}


class FeedbackForm(forms.ModelForm):
    class Meta:
        model = Feedback
        fields = ["email", "message"]
        field_classes = {"message": MessageField}
        widgets = {
            "email": forms.EmailInput(attrs={"autocomplete": "email"}),
            "message": forms.Textarea(attrs={"rows": 6}),
        }
        labels = {"email": "Your email address", "message": "Your message"}
        help_texts = {"email": "So that we can answer you. It is not shown on the site."}
        error_messages = {
            "email": {
                "required": "Enter your email address, so that we can answer you.",
                "invalid": "Enter an email address like name@example.org.",
            },
            "message": {
                "required": "Write us a few words.",
                "max_length": "Shorten this to %(limit_value)d characters; it has %(show_value)d.",
            },
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"label_suffix": "", **kwargs})
