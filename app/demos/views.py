"""The home page, and the list of demos: one line here gives a demo its card and its address."""

from typing import NamedTuple

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


class Demo(NamedTuple):
    slug: str  # its folder, and its address
    title: str
    summary: str


DEMOS = [
    Demo("feedback", "Feedback", "The form answers at once, a worker mails it, and you watch it happen."),
]


def home(request: HttpRequest) -> HttpResponse:
    return render(request, "demos/home.html", {"demos": DEMOS, "flower_url": settings.FLOWER_URL})
