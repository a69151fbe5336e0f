"""The form, and the page on which its sender watches every address become a row with a result."""

import logging
import zlib
from typing import Any

from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils.decorators import method_decorator
from django.views.decorators.cache import never_cache
from django.views.generic import DetailView, FormView

from celeriac.broker import BROKER_AWAY
from celeriac.tracking import track
from demos import throttle
from demos.pages.forms import PagesForm
from demos.pages.models import Batch, Page, summary_of
from demos.pages.tasks import read_pages
from demos.polling import OnlyNews

logger = logging.getLogger(__name__)


@method_decorator(never_cache, name="dispatch")
class Index(FormView):
    form_class = PagesForm
    template_name = "pages/index.html"

    def form_valid(self, form: PagesForm) -> HttpResponse:
        if seconds := throttle.seconds_to_wait(self.request, "pages"):
            sentence = f"That is a lot for one minute. Your list is kept: send it in {seconds} s."
            return throttle.too_many(self.refused(form, sentence), seconds)
        batch = save(self.request, form.cleaned_data["addresses"])
        try:
            # After the commit: a quick worker would not find the rows before.
            transaction.on_commit(lambda: read_pages(batch).apply_async(task_id=batch.task_id))
        except BROKER_AWAY:
            logger.exception("batch %s could not be queued", batch.pk)
            batch.delete()  # some of its tasks may be queued: they find no row, and end
            return self.refused(form, "The queue cannot be reached. Your list is kept: send it again soon.", 503)
        return redirect("pages:batch", batch.pk)

    def form_invalid(self, form: PagesForm) -> HttpResponse:
        form.fields["addresses"].widget.attrs["autofocus"] = True
        return super().form_invalid(form)

    def refused(self, form: PagesForm, sentence: str, status: int = 200) -> HttpResponse:
        form.add_error(None, sentence)
        return self.render_to_response(self.get_context_data(form=form), status=status)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        recent = Batch.objects.owned_by(self.request).prefetch_related("pages")[:5]
        return super().get_context_data(recent=recent, **kwargs)


def save(request: HttpRequest, addresses: list[str]) -> Batch:
    label = f"Summary of {len(addresses)} page{'' if len(addresses) == 1 else 's'}"
    with transaction.atomic():
        batch = Batch.objects.create(task_id=track(request, label), **Batch.owner(request))
        Page.objects.bulk_create(Page(batch=batch, url=address) for address in addresses)
    return batch


@method_decorator(never_cache, name="dispatch")
class BatchDetail(DetailView):
    template_name = "pages/batch.html"

    def get_queryset(self) -> QuerySet[Batch]:
        return Batch.objects.owned_by(self.request)

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        pages = list(self.object.pages.all())  # read once: they may change between two lines of the template
        marks = ",".join(f"{page.state}{page.attempts}" for page in pages)
        return super().get_context_data(
            pages=pages,
            summary=summary_of(pages),
            ended=all(page.ended for page in pages),
            seen=f"{zlib.crc32(marks.encode()):x}",
            **kwargs,
        )


class BatchRows(OnlyNews, BatchDetail):
    template_name = "pages/rows.html"
