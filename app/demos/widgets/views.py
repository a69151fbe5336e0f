"""The page: a form, what was started with it, and a task looked up again."""

import logging
from collections.abc import Callable
from typing import Any

from celery import current_app, states
from celery.result import AsyncResult
from django import forms
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from celeriac.broker import BROKER_AWAY
from celeriac.models import TrackedTask
from celeriac.tracking.state import TaskState, state_of
from demos import throttle
from demos.posting import post_or_go_to
from demos.widgets import calls, tasks
from demos.widgets.forms import CallForm, LookupForm, WidgetForm
from demos.widgets.models import Widget

logger = logging.getLogger(__name__)

#: Where the session keeps what was started last, and how much of it.
KEPT, MOST_KEPT = "widgets", 6


@require_safe
@never_cache
def index(request: HttpRequest) -> HttpResponse:
    if "id" not in request.GET:
        return page(request)
    form = LookupForm(request, request.GET)
    found = {}
    if form.is_valid():
        try:
            found = look_up(form.cleaned_data["id"])
        except Exception:  # any backend, any driver
            logger.exception("results cannot be read")
            form.add_error("id", "Results cannot be read just now. Ask again in a moment.")
    return page(request, lookup_form=form, found=found)


def look_up(task_id: str) -> dict[str, Any]:
    """What Celery tells of any task whose id one has kept."""
    result = AsyncResult(task_id)
    facts = {"id": result.id, "state": result.state, "ready()": result.ready()}
    if result.state in states.READY_STATES:  # from here on it does not change
        error = result.state in states.EXCEPTION_STATES
        facts |= {
            "successful()": result.successful(),
            "result": f"{type(result.result).__name__}: {result.result}" if error else result.result,
            "worker": result.worker,
            "date_done": result.date_done,
        }
    return facts


@post_or_go_to("widgets:index")
def call(request: HttpRequest) -> HttpResponse:
    form = CallForm(request, request.POST)
    if not form.is_valid():
        return page(request, call_form=form)
    wanted = form.cleaned_data
    task = getattr(tasks, wanted["task"])
    return start(
        request, lambda: calls.start(request, wanted["way"], task, wanted["calls"], form.options), call_form=form
    )


@post_or_go_to("widgets:index")
def debug(request: HttpRequest) -> HttpResponse:
    return start(request, lambda: calls.debug(request))


@post_or_go_to("widgets:index")
def rush(request: HttpRequest) -> HttpResponse:
    return start(request, lambda: calls.rush(request))


@post_or_go_to("widgets:index")
def make(request: HttpRequest) -> HttpResponse:
    form = WidgetForm(request, request.POST)
    if not form.is_valid():
        return page(request, widget_form=form)
    if seconds := throttle.seconds_to_wait(request, "widgets"):
        return too_many(request, seconds, widget_form=form)
    Widget.objects.create(name=form.cleaned_data["name"], **Widget.owner(request))
    return redirect(f"{reverse('widgets:index')}#widgets")


def start(request: HttpRequest, send: Callable[[], calls.Started], **bound: forms.Form) -> HttpResponse:
    """Send it, and keep in the session what was sent; ``bound`` is the form to show again if that cannot be."""
    if seconds := throttle.seconds_to_wait(request, "widgets"):
        return too_many(request, seconds, **bound)
    try:
        started = send()
    except BROKER_AWAY:
        logger.exception("tasks could not be queued")
        problem = "The queue cannot be reached just now. What you wrote is kept: start it again in a moment."
        return page(request, problem=problem, status=503, **bound)
    request.session[KEPT] = [started, *request.session.get(KEPT, [])][:MOST_KEPT]
    return redirect(f"{reverse('widgets:index')}#started")


def too_many(request: HttpRequest, seconds: int, **bound: Any) -> HttpResponse:
    problem = f"That is a lot for one minute. What you wrote is kept: send it in {seconds} s."
    return throttle.too_many(page(request, problem=problem, **bound), seconds)


def page(request: HttpRequest, problem: str = "", status: int = 200, **context: Any) -> HttpResponse:
    for form in context.values():
        if isinstance(form, forms.Form) and form.errors:
            next(field for field in form if field.errors).field.widget.attrs["autofocus"] = True
            problem = problem or "Nothing is started yet. Please look at what is marked below."
    defaults = {
        "call_form": CallForm(request),
        "lookup_form": LookupForm(request),
        "widget_form": WidgetForm(request),
        "widgets": Widget.objects.owned_by(request),
        "started": what_was_started(request),
        "most_kept": MOST_KEPT,
        "rush": calls.RUSH,
        "rate_limit": current_app.tasks[tasks.limited.name].rate_limit,
    }
    return render(request, "widgets/index.html", {**defaults, "problem": problem, **context}, status=status)


def what_was_started(request: HttpRequest) -> list[dict[str, Any]]:
    """The last calls from this session, without those whose tasks have expired since."""
    kept: list[calls.Started] = request.session.get(KEPT, [])
    mine = TrackedTask.objects.owned_by(request).in_bulk([task_id for each in kept for task_id in each["task_ids"]])
    return [
        {**each, "tracked": [mine[task_id] for task_id in each["task_ids"]], "task": state_for_table(each)}
        for each in kept
        if mine.keys() >= set(each["task_ids"])
    ]


def state_for_table(each: calls.Started) -> TaskState | None:
    if each["shown"] != "answer":
        return None
    try:
        return state_of(each["task_ids"][-1])
    except Exception:  # results are away: the page works, and asks again
        return None
