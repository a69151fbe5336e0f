"""``{% task_status task_id %}``: where a task is, updated until it ends."""

from typing import Any

from django import template

from celeriac.models import TrackedTask
from celeriac.tracking.state import state_of

register = template.Library()


@register.inclusion_tag("celeriac/task_status.html")
def task_status(task_id: str) -> dict[str, Any]:
    """For pages that only the task's owner is shown; the tag itself does not ask who is looking."""
    tracked = TrackedTask.objects.filter(task_id=task_id).first()
    if not tracked:  # cleared away with the results of its time
        return {}
    try:
        return {"task": state_of(task_id), "tracked": tracked}
    except Exception:  # results are away: the page works, and asks again
        return {"tracked": tracked}
