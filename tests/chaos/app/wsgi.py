"""The site, and one address more: ``POST /chaos/`` takes an order, or many with the numbers that follow."""

import os
from contextlib import nullcontext

from config.wsgi import application  # first: it sets Django up

if PLAIN := "CHAOS_PLAIN" in os.environ:
    import chaos.plain  # noqa: F401

from chaos.models import Order
from chaos.tasks import KINDS
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from config.urls import urlpatterns


@csrf_exempt
def order(request: HttpRequest) -> HttpResponse:
    """Save the order, queue its task: in one transaction, or one after the other as in the tutorials."""
    number, many, seconds = int(request.POST["number"]), int(request.POST["many"]), float(request.POST["seconds"])
    task, calls = KINDS[request.POST["kind"]], [(each, seconds) for each in range(number, number + many)]
    with nullcontext() if PLAIN else transaction.atomic():
        for each, _ in calls:
            Order.objects.create(number=each, kind=request.POST["kind"])
        if PLAIN or many == 1:
            for call in calls:
                task.delay(*call)
        else:
            task.delay_many(calls)
    return HttpResponse(status=201)


urlpatterns.insert(0, path("chaos/", order))

__all__ = ["application"]
