"""Write an article, edit it while two tasks are on their way to it, and see which of them keeps the edit."""

import logging
import time
from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.db.models import F, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from celeriac.broker import BROKER_AWAY
from celeriac.models import TrackedTask
from celeriac.tracking import track
from celeriac.tracking.state import has_ended
from demos import throttle
from demos.articles.forms import ArticleForm, EditForm
from demos.articles.models import Article
from demos.articles.tasks import ABBREVIATIONS, expand_abbreviations, overwrite_with_stale
from demos.posting import post_or_go_to

logger = logging.getLogger(__name__)

#: Seconds until the two tasks run: the time to edit the article in.
COUNTDOWN = 15
#: Two ways to queue a task in a transaction, and what their tasks are called on the page.
WAYS = {"inside": "Queued inside the transaction", "on_commit": "Queued on commit"}
FIRST_TEXT = "FYI: MyCorp needs this ASAP. The place is TBD."
AWAY = "The queue cannot be reached just now, so no task was started. Your articles are safe: try again in a minute."


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: HttpRequest) -> HttpResponse:
    form = ArticleForm(request.POST or None, initial={"title": "Our meeting", "body": FIRST_TEXT})
    if not form.is_valid():
        return show_index(request, form)
    if seconds := throttle.seconds_to_wait(request, "articles"):
        form.add_error(None, throttle.TOO_MANY.format(seconds))
        return throttle.too_many(show_index(request, form), seconds)
    with transaction.atomic():
        article = Article.objects.create(**form.cleaned_data, **Article.owner(request))
        Article.objects.create(**form.cleaned_data, twin_of=article)
    return redirect("articles:article", article.pk)


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def edit(request: HttpRequest, pk: UUID) -> HttpResponse:
    """The page of one article, with the form that edits it and its twin."""
    article = get_object_or_404(mine(request), pk=pk)
    form = EditForm(request.POST or None, instance=article) if request.POST else None
    if form and form.is_valid():
        if save(article, form):
            return redirect("articles:article", article.pk)
        form.reopen(mine(request).get(pk=pk))
    return show_article(request, pk, form)


def save(article: Article, form: EditForm) -> bool:
    """Save the edit, unless the article has changed since the form was opened."""
    text = {"title": form.cleaned_data["title"], "body": form.cleaned_data["body"], "version": F("version") + 1}
    with transaction.atomic():
        if not Article.objects.filter(pk=article.pk, version=form.cleaned_data["version"]).update(**text):
            return False
        Article.objects.filter(twin_of=article).update(**text)
    return True


@require_POST
def start(request: HttpRequest, pk: UUID) -> HttpResponse:
    """Queue both tasks: one gets the article's id, the other the twin as it is now."""
    article = get_object_or_404(mine(request), pk=pk)
    twin = article.twin
    if seconds := throttle.seconds_to_wait(request, "articles"):
        messages.error(request, throttle.TOO_MANY.format(seconds))
        return throttle.too_many(show_article(request, pk), seconds)
    try:
        with transaction.atomic():
            article.task_id = track(request, "With its id")
            twin.task_id = track(request, "With the article in the message")
            twin.title, twin.body = article.title, article.body  # what the last race has left
            article.save(update_fields=["task_id"])
            twin.save(update_fields=["task_id", "title", "body"])
            expand_abbreviations.apply_async_on_commit([str(article.pk)], task_id=article.task_id, countdown=COUNTDOWN)
            stale = {"id": str(twin.pk), "title": twin.title, "body": twin.body}
            overwrite_with_stale.apply_async_on_commit([stale], task_id=twin.task_id, countdown=COUNTDOWN)
    except BROKER_AWAY:
        logger.exception("the tasks of article %s could not be queued", article.pk)
        Article.objects.filter(pk__in=[article.pk, twin.pk]).update(task_id="")
        messages.error(request, AWAY)
    return redirect("articles:article", article.pk)


@never_cache
@require_safe
def texts(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What htmx polls: nothing while the tasks are under way, then both texts as they have become."""
    article = get_object_or_404(mine(request), pk=pk)
    if not all_ended(tasks_of(article)):
        return HttpResponse(status=204)
    return render(request, "articles/texts.html", {"article": article})


@post_or_go_to("articles:index")
def commit(request: HttpRequest) -> HttpResponse:
    """Make an article and queue its task in one transaction, in the wrong way or in the right one."""
    way = request.POST.get("way", "")
    if way not in WAYS:
        raise Http404
    if seconds := throttle.seconds_to_wait(request, "articles"):
        messages.error(request, throttle.TOO_MANY.format(seconds))
        return throttle.too_many(show_index(request), seconds)
    task_id = track(request, WAYS[way])
    try:
        with transaction.atomic():
            article = Article.objects.create(title=WAYS[way], body=FIRST_TEXT, **Article.owner(request))
            if way == "on_commit":
                expand_abbreviations.apply_async_on_commit([str(article.pk)], task_id=task_id)
            else:
                # THE WRONG WAY, to be watched: a quick worker looks for a row that is not committed yet.
                expand_abbreviations.apply_async([str(article.pk)], task_id=task_id)
            rest_of_the_request()
    except BROKER_AWAY:
        logger.exception("task %s could not be queued", task_id)
        TrackedTask.objects.filter(task_id=task_id).delete()
        messages.error(request, AWAY)
    return redirect("articles:index")


def rest_of_the_request() -> None:
    """What a request does between the queueing and the commit; mostly it is quicker, and the race is rarer."""
    time.sleep(1)


def mine(request: HttpRequest) -> QuerySet[Article]:
    """The articles of whoever asks; not their twins, nor those of the race for the commit."""
    return Article.objects.owned_by(request).filter(twin__isnull=False).select_related("twin")


def tasks_of(article: Article) -> list[TrackedTask]:
    """The two tasks of the last race; none when they are so long ago that their results are deleted."""
    started = TrackedTask.objects.filter(task_id__in=[article.task_id, article.twin.task_id])
    return list(started.order_by("started_at"))


def all_ended(tasks: list[TrackedTask]) -> bool:
    return all(has_ended(task.pk) for task in tasks)


def show_index(request: HttpRequest, form: ArticleForm | None = None) -> HttpResponse:
    tasks = TrackedTask.objects.owned_by(request)
    context = {
        "form": form or ArticleForm(initial={"title": "Our meeting", "body": FIRST_TEXT}),
        "abbreviations": ABBREVIATIONS,
        "articles": mine(request)[:10],
        "ways": [(way, label, tasks.filter(label=label).first()) for way, label in WAYS.items()],
    }
    return render(request, "articles/index.html", context)


def show_article(request: HttpRequest, pk: UUID, form: EditForm | None = None) -> HttpResponse:
    # Read here: what a form was filled into is not what is saved.
    article = get_object_or_404(mine(request), pk=pk)
    tasks = tasks_of(article)
    context = {
        "article": article,
        "tasks": tasks,
        "form": form or EditForm(instance=article, initial={"version": article.version}),
        "under_way": not all_ended(tasks),
        "countdown": COUNTDOWN,
    }
    return render(request, "articles/article.html", context)
