"""What this process runs, if it is a child with a batch: what its tasks' results and durable jobs ask about it."""

from typing import TYPE_CHECKING, Any

from celery import states

if TYPE_CHECKING:
    from celeriac.worker.batch import Batch

batch: "Batch | None" = None


def may_keep(backend: Any, task_id: str, state: str) -> bool:
    """Whether a result may be kept, to be stored with the others; or, of a task that begins, need not be stored.

    The main process says that of those that take time.
    """
    return bool(
        batch
        and may_end(task_id)
        and state in (states.SUCCESS, states.STARTED)
        and backend is batch.backend
        and hasattr(backend, "row")
    )


def may_end(task_id: str) -> bool:
    """Whether the end of a task may be kept: nobody else asks about it before the batch ends."""
    return bool(batch and batch.task_id == task_id and batch.simple)


def keep(kind: str, what: Any) -> None:
    if batch:
        batch.keep(kind, what)


def claimed(task_id: str) -> int | None:
    """The token of the claim that the batch made for a job which begins now; another delivery makes one of its own."""
    return batch.claims.pop(task_id, None) if batch and batch.task_id == task_id else None
