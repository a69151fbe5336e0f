"""Addresses that only take forms: after a mistake the browser shows one, and people open it again."""

from collections.abc import Callable
from functools import wraps

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

View = Callable[..., HttpResponse]


def post_or_go_to(page: str) -> Callable[[View], View]:
    """A view for POST; whoever opens its address is sent to ``page``, where the form is."""

    def decorate(view: View) -> View:
        @wraps(view)
        def only_post(request: HttpRequest, *args: object, **kwargs: object) -> HttpResponse:
            return view(request, *args, **kwargs) if request.method == "POST" else redirect(page)

        return only_post

    return decorate
