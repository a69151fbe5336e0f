"""What a watcher is told about a task."""

from dataclasses import asdict, dataclass
from typing import Any

from celery import current_app, states
from celery.exceptions import TimeLimitExceeded

from celeriac.tracking import PROGRESS

#: Celery's states in the words of a page.
WORDS = {
    states.PENDING: "queued",
    states.RECEIVED: "queued",
    states.STARTED: "running",
    PROGRESS: "running",
    states.RETRY: "retrying",
    states.SUCCESS: "done",
    states.FAILURE: "failed",
    states.REVOKED: "cancelled",
}


@dataclass
class TaskState:
    id: str
    #: Celery's name of it: PENDING, STARTED, PROGRESS, RETRY, SUCCESS, FAILURE, REVOKED.
    state: str
    #: ``queued``, ``running``, ``retrying``, ``done``, ``failed`` or ``cancelled``.
    word: str
    #: Whether it has ended, well or not.
    ready: bool
    #: ``done``, ``total`` and ``percent`` (both ``None`` when nobody knows the total) and ``note``.
    progress: dict[str, Any] | None
    result: Any
    #: ``ValueError: …`` of the exception that ended it, or that it is tried again after; no traceback.
    error: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def seen(self) -> str:
        """Changes when there is news."""
        progress = self.progress or {}
        return f"{self.state}-{progress.get('done', '')}-{progress.get('note', '')}"


def state_of(task_id: str) -> TaskState:
    """Ask the result backend, once. Raises whatever its driver raises when it cannot be reached."""
    meta = current_app.backend.get_task_meta(task_id)
    state, result = meta["status"], meta.get("result")
    failed = state in states.EXCEPTION_STATES
    return TaskState(
        id=task_id,
        state=state,
        word=WORDS.get(state, "running"),
        ready=state in states.READY_STATES,
        progress=_progress(result) if state == PROGRESS else None,
        result=result if state == states.SUCCESS else None,
        error=_error(result) if failed else "",
    )


def has_ended(task_id: str) -> bool:
    """Whether a task has ended, well or not; not, as far as anybody knows, while results are away: ask again."""
    try:
        return state_of(task_id).ready
    except Exception:  # any backend, any driver
        return False


def _progress(meta: Any) -> dict[str, Any]:
    done, total = meta.get("done", 0), meta.get("total")
    percent = min(100, int(100 * done / total)) if total else None
    return {"done": done, "total": total, "percent": percent, "note": meta.get("note", "")}


def _error(result: Any) -> str:
    if isinstance(result, TimeLimitExceeded):
        return f"It took longer than {result.args[0]} seconds and was stopped."
    return f"{type(result).__name__}: {result}" if isinstance(result, BaseException) else str(result or "")
