"""What an author fills in; the second form knows which text it was opened with."""

from typing import Any

from django import forms

from demos.articles.models import Article
from demos.feedback.forms import MessageField


class ArticleForm(forms.ModelForm):
    class Meta:
        model = Article
        fields = ["title", "body"]
        field_classes = {"body": MessageField}
        widgets = {"body": forms.Textarea(attrs={"rows": 5})}
        labels = {"title": "Title", "body": "Text"}
        error_messages = {
            "title": {
                "required": "Give it a title.",
                "max_length": "Shorten this to %(limit_value)d characters; it has %(show_value)d.",
            },
            "body": {
                "required": "Write a sentence or two.",
                "max_length": "Shorten this to %(limit_value)d characters; it has %(show_value)d.",
            },
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"label_suffix": "", **kwargs})


class EditForm(ArticleForm):
    version = forms.IntegerField(widget=forms.HiddenInput)

    def reopen(self, article: Article) -> None:
        """Keep what was typed, and let the next attempt replace the text as it is now."""
        self.add_error(
            "body",
            "The article was changed after you opened this form; above is how it reads now. "
            "Yours is kept here: save again to put it in its place.",
        )
        self.data = {**dict(self.data.items()), "version": article.version}
