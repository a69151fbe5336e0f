"""How far a task is, for its owner: as JSON, and as the part of a page that keeps itself up to date."""

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from celeriac.models import TrackedTask
from celeriac.tracking.state import state_of


@require_safe
@never_cache
def task_json(request: HttpRequest, task_id: str) -> JsonResponse:
    tracked = TrackedTask.objects.owned_by(request).filter(task_id=task_id).first()
    if not tracked:  # somebody else's, too: whether it exists is nobody's business
        return JsonResponse({"error": "There is no such task, or it is not yours."}, status=404)
    try:
        state = state_of(task_id)
    except Exception:  # any backend, any driver
        return JsonResponse({"error": "Results cannot be read just now; ask again."}, status=503)
    return JsonResponse({"label": tracked.label, **state.as_json()})


@require_safe
@never_cache
def task_status(request: HttpRequest, task_id: str, template: str = "celeriac/task_status.html") -> HttpResponse:
    """What htmx polls. While nothing is new it answers 204, and a screen reader has nothing to repeat."""
    tracked = get_object_or_404(TrackedTask.objects.owned_by(request), task_id=task_id)
    task = state_of(task_id)
    if request.GET.get("seen") == task.seen:
        return HttpResponse(status=204)
    return render(request, template, {"task": task, "tracked": tracked})
