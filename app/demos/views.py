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
    Demo(
        "widgets",
        "Widgets",
        "Small tasks, called in every way Celery has: delays, groups, chords, chains, rate limits.",
    ),
    Demo("uploads", "Uploads", "A large file is answered at once and processed in the background, with live progress."),
    Demo("pages", "Pages", "Web pages fetched, parsed and stored by a chain of tasks; many at once by a chord."),
    Demo("articles", "Articles", "Why tasks take ids and wait for the commit: two races, and what ends them."),
    Demo(
        "notifications", "Notifications", "Mail to many people: retries with back-off, a daily schedule, time limits."
    ),
]


def home(request: HttpRequest) -> HttpResponse:
    return render(request, "demos/home.html", {"demos": DEMOS, "flower_url": settings.FLOWER_URL})
