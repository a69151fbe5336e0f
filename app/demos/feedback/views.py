"""The form, and the page on which its sender watches what becomes of it."""

from typing import Any

from django.db import transaction
from django.forms import BaseModelForm, ModelForm
from django.http import HttpResponse
from django.shortcuts import redirect
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.generic import CreateView, DetailView

from demos import throttle
from demos.feedback.forms import FeedbackForm
from demos.feedback.models import Feedback
from demos.feedback.tasks import send_feedback
from demos.polling import OnlyNews


class FeedbackCreate(CreateView):
    form_class = FeedbackForm
    template_name = "feedback/form.html"

    def form_valid(self, form: BaseModelForm) -> HttpResponse:
        if seconds := throttle.seconds_to_wait(self.request, "feedback"):
            form.add_error(None, f"That is a lot for one minute. Your text is kept: send it in {seconds} s.")
            return throttle.too_many(self.render_to_response(self.get_context_data(form=form)), seconds)
        feedback = form.save(commit=False)
        with transaction.atomic():
            feedback.save()
            # Durable, so the task is a row of this transaction, too: both are there, or neither is. Its message goes
            # to Redis after the commit, or when Redis is back; the visitor waits for neither.
            send_feedback.delay(str(feedback.pk))
        return redirect("feedback:detail", feedback.pk)

    def form_invalid(self, form: ModelForm) -> HttpResponse:
        if wrong := [field for field in form if field.errors]:
            wrong[0].field.widget.attrs["autofocus"] = True
        return super().form_invalid(form)


@method_decorator(never_cache, name="dispatch")
class FeedbackDetail(DetailView):
    model = Feedback
    template_name = "feedback/detail.html"

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        state = self.object.state  # asked once: it may change between two lines of the template
        return super().get_context_data(state=state, seen=f"{state}-{self.object.attempts}", **kwargs)


class FeedbackStatus(OnlyNews, FeedbackDetail):
    template_name = "feedback/status.html"
