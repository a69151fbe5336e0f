"""The part of a page that htmx asks for again and again."""

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.generic import DetailView


class OnlyNews(DetailView):
    """While nothing is new it answers 204, and a screen reader has nothing to repeat.

    What a browser has shown already is the context's ``seen``, which it sends back.
    """

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        self.object = self.get_object()
        context = self.get_context_data(object=self.object)
        if request.GET.get("seen") == context["seen"]:
            return HttpResponse(status=204)
        return self.render_to_response(context)
