"""Send a campaign and watch it; start two tasks that meet their time limits; when the daily message comes."""

import logging
from uuid import UUID

from django.contrib import messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe
from django_celery_beat.models import PeriodicTask

from celeriac.broker import BROKER_AWAY
from celeriac.jobs import operate
from celeriac.models import TrackedTask
from celeriac.schedules.words import when
from celeriac.tracking import track
from celeriac.tracking.state import has_ended
from demos import throttle
from demos.notifications.forms import CampaignForm
from demos.notifications.models import Campaign, Recipient
from demos.notifications.tasks import daily_message, polite, send_campaign, stubborn
from demos.posting import post_or_go_to

logger = logging.getLogger(__name__)

#: Seconds: of the work, and of the two limits that it is started with.
WORK, SOFT_LIMIT, HARD_LIMIT = 20, 2, 4
LIMITED = {"polite": (polite, "Ends at the soft limit"), "stubborn": (stubborn, "Killed by the hard limit")}
FIRST = {"subject": "We open on Monday", "text": "Come and see us.", "addresses": "ada@example.org\ngrace@example.net"}
AWAY = "The queue cannot be reached just now. Nothing was started: try again in a minute."


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def index(request: HttpRequest) -> HttpResponse:
    form = CampaignForm(request, request.POST or None, initial=FIRST)
    if not form.is_valid():
        return show_index(request, form)
    if seconds := throttle.seconds_to_wait(request, "notifications"):
        form.add_error(None, throttle.TOO_MANY.format(seconds))
        return throttle.too_many(show_index(request, form), seconds)
    with transaction.atomic():
        addresses = form.cleaned_data.pop("addresses")
        campaign = Campaign.objects.create(**form.cleaned_data, **Campaign.owner(request))
        Recipient.objects.bulk_create(Recipient(campaign=campaign, email=address) for address in addresses)
        queue(request, campaign)
    return redirect("notifications:campaign", campaign.pk)


@never_cache
@require_safe
def show(request: HttpRequest, pk: UUID) -> HttpResponse:
    return show_campaign(request, get_object_or_404(Campaign.objects.owned_by(request), pk=pk))


@never_cache
@require_safe
def recipients(request: HttpRequest, pk: UUID) -> HttpResponse:
    """What htmx polls. While nothing is new it answers 204."""
    campaign = get_object_or_404(Campaign.objects.owned_by(request), pk=pk)
    context = recipients_of(campaign)
    if request.GET.get("seen") == context["seen"]:
        return HttpResponse(status=204)
    return render(request, "notifications/recipients.html", context)


@require_POST
def send_the_rest(request: HttpRequest, pk: UUID) -> HttpResponse:
    """For those who wait when it has failed."""
    campaign = get_object_or_404(Campaign.objects.owned_by(request), pk=pk)
    if seconds := throttle.seconds_to_wait(request, "notifications"):
        messages.error(request, throttle.TOO_MANY.format(seconds))
        return throttle.too_many(show_campaign(request, campaign), seconds)
    now = recipients_of(campaign)
    if now["waiting"] and not now["under_way"]:
        queue(request, campaign)
    return redirect("notifications:campaign", campaign.pk)


def queue(request: HttpRequest, campaign: Campaign) -> None:
    """Begin to send, in the caller's transaction; if it failed before, by the same job."""
    with transaction.atomic():
        again = operate.retry([campaign.task_id])
        label = f"Mail to {campaign.recipients.count()} people"
        campaign.task_id = track(request, label, campaign.task_id if again else "")
        campaign.save(update_fields=["task_id"])
        if not again:
            send_campaign.apply_async([str(campaign.pk)], task_id=campaign.task_id)


@post_or_go_to("notifications:index")
def limits(request: HttpRequest) -> HttpResponse:
    """Start a task of 20 seconds that may take two, and gets four."""
    name = request.POST.get("task", "")
    if name not in LIMITED:
        raise Http404
    if seconds := throttle.seconds_to_wait(request, "notifications"):
        messages.error(request, throttle.TOO_MANY.format(seconds))
        return throttle.too_many(show_index(request), seconds)
    task, label = LIMITED[name]
    task_id = track(request, label)
    try:
        task.apply_async_on_commit([WORK], task_id=task_id, soft_time_limit=SOFT_LIMIT, time_limit=HARD_LIMIT)
    except BROKER_AWAY:
        logger.exception("task %s could not be queued", task_id)
        TrackedTask.objects.filter(task_id=task_id).delete()
        messages.error(request, AWAY)
    return redirect("notifications:index")


def recipients_of(campaign: Campaign) -> dict[str, object]:
    # None when it is so long ago that its result is deleted.
    task = TrackedTask.objects.filter(task_id=campaign.task_id).first()
    # Asked before the rows are read: what has ended then has written all of them.
    busy = bool(task and not has_ended(task.pk))
    rows = list(campaign.recipients.all())
    waiting = sum(1 for row in rows if not row.sent_at and not row.refused)
    return {
        "campaign": campaign,
        "task": task,
        "recipients": rows,
        "waiting": waiting,
        "under_way": busy and waiting,
        "seen": f"{waiting}-{busy}",
    }


def show_campaign(request: HttpRequest, campaign: Campaign) -> HttpResponse:
    return render(request, "notifications/campaign.html", recipients_of(campaign))


def show_index(request: HttpRequest, form: CampaignForm | None = None) -> HttpResponse:
    tasks: QuerySet[TrackedTask] = TrackedTask.objects.owned_by(request)
    context = {
        "form": form or CampaignForm(request, initial=FIRST),
        "campaigns": Campaign.objects.owned_by(request)[:10],
        "limited": [(name, label, tasks.filter(label=label).first()) for name, (_, label) in LIMITED.items()],
        "work": WORK,
        "soft_limit": SOFT_LIMIT,
        "hard_limit": HARD_LIMIT,
        "schedules": [
            {"name": schedule.name, "words": when(schedule), "enabled": schedule.enabled}
            for schedule in PeriodicTask.objects.filter(task=daily_message.name)
        ],
    }
    return render(request, "notifications/index.html", context)
