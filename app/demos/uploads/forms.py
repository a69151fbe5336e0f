"""What a visitor sends: one file."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.core.files.uploadedfile import UploadedFile

from demos.uploads import limits
from demos.uploads.errors import FileError
from demos.uploads.kinds import kind_of
from demos.uploads.models import Upload


class UploadForm(forms.Form):
    file = forms.FileField(
        label="A CSV file or a picture",
        error_messages={
            "required": "Choose a file: a CSV file or a picture.",
            "empty": "This file is empty. Choose one with something in it.",
        },
        widget=forms.FileInput(attrs={"accept": ".csv,.tsv,text/csv,image/png,image/jpeg,image/gif,image/webp"}),
    )

    def __init__(self, *args: Any, refusal: limits.Refusal | None = None, **kwargs: Any) -> None:
        """``refusal`` is why there is no file, when somebody tried to send one."""
        super().__init__(*args, **{"label_suffix": "", **kwargs})
        field = self.fields["file"]
        field.help_text = f"At most {limits.max_megabytes()} MB; a picture, {limits.IMAGE_MAX // limits.MB} MB."
        # Told before it is sent, too: nobody wants to wait for an hour and then hear it.
        field.widget.attrs["hx-on:change"] = (
            f"this.setCustomValidity(this.files[0]?.size > {limits.max_bytes()} ? '{limits.too_large().words}' : '');"
            "this.reportValidity()"
        )
        if refusal:
            field.error_messages["required"] = refusal.words

    def clean_file(self) -> UploadedFile:
        file = self.cleaned_data["file"]
        try:
            self.kind = kind_of(file)
        except FileError as error:
            raise ValidationError(str(error)) from None
        if self.kind == Upload.Kind.IMAGE and file.size > limits.IMAGE_MAX:
            raise ValidationError(f"A picture may have {limits.IMAGE_MAX // limits.MB} MB at most.")
        return file
