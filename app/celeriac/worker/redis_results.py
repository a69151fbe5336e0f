"""Results in Redis, in one round trip: ``CELERY_RESULT_BACKEND=redis``. No models here: Celery may ask early for it."""

from datetime import datetime, tzinfo
from typing import Any

from celery import states

#: KEYS: those of results; ARGV: their value, and for how many seconds it is kept (0: for ever), for each.
STORE_IN_REDIS = """
for k = 1, #KEYS do
  local key, value, seconds = KEYS[k], ARGV[2 * k - 1], tonumber(ARGV[2 * k])
  if redis.call('GETRANGE', key, 0, 19) ~= '{"status": "SUCCESS"' then  -- that is never overwritten
    if seconds > 0 then redis.call('SETEX', key, seconds, value) else redis.call('SET', key, value) end
    redis.call('PUBLISH', key, value)
  end
end"""

#: KEYS: of the result; ARGV: its value, seconds. Only over nothing, and over what an attempt before has left.
STORE_STARTED = """
local before = redis.call('GETRANGE', KEYS[1], 0, 17)
if before == '' or before == '{"status": "RETRY"' then
  if tonumber(ARGV[2]) > 0 then redis.call('SETEX', KEYS[1], ARGV[2], ARGV[1])
  else redis.call('SET', KEYS[1], ARGV[1]) end
  redis.call('PUBLISH', KEYS[1], ARGV[1])
end"""


class RedisMixin:
    """For Celery's backend in Redis: one round trip instead of two, and one for the results of a batch."""

    _extended: bool | None = None
    _zone: tzinfo

    def _store_result(
        self: Any, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        row = self.row(task_id, result, state, traceback, request)
        if self.serializer != "json" or len(row[1]) > self._MAX_STR_VALUE_SIZE:
            return super()._store_result(task_id, result, state, traceback, request, **kwargs)  # type: ignore[misc]
        self.store_rows([row])
        return result

    def store_started(self: Any, task_id: str, about: Any, request: Any, seconds: float) -> None:
        """That a task runs, unless it has said more since it began."""
        self.client.eval(STORE_STARTED, 1, *self.row(task_id, about, states.STARTED, None, request))

    def row(self: Any, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None) -> tuple:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        expires = self.failure_expires if state == states.FAILURE else self.expires
        return (self.get_key_for_task(task_id), self.encode({**meta, "task_id": task_id}), int(expires or 0))

    def _get_result_meta(
        self: Any, result: Any, state: str, traceback: Any, request: Any, format_date: bool = True, encode: bool = False
    ) -> dict[str, Any]:
        """Celery's, which asks its settings and ``dateutil`` again for each (30 us)."""
        if state != states.SUCCESS or request is None or not format_date or encode or getattr(request, "stamps", None):
            return super()._get_result_meta(result, state, traceback, request, format_date, encode)  # type: ignore[misc]
        if self._extended is None:
            self._extended, self._zone = bool(self.app.conf.find_value_for_key("extended", "result")), self.app.timezone
        meta: dict[str, Any] = {"status": state, "result": result, "traceback": traceback}
        meta["children"] = self.current_task_children(request)
        meta["date_done"] = datetime.now(self._zone).isoformat()
        if request.group:
            meta["group_id"] = request.group
        if request.parent_id:
            meta["parent_id"] = request.parent_id
        if self._extended:
            meta |= {"name": getattr(request, "task", None), "args": request.args, "kwargs": request.kwargs}
            meta |= {"worker": request.hostname, "retries": request.retries}
            meta["queue"] = request.delivery_info.get("routing_key") if request.delivery_info else None
        return meta

    def remove_pending_result(self: Any, result: Any) -> Any:
        """Celery's, which unsubscribes from each result that is forgotten (8 us), asked for or not."""
        if any(self._pending_results) or self.result_consumer.subscribed_to:
            return super().remove_pending_result(result)  # type: ignore[misc]
        return result

    def store_rows(self: Any, rows: list[Any]) -> None:
        """Raises what Redis raises when it is away, and was so a moment later, too."""
        self.ensure(self.write, (rows,))

    def write(self: Any, rows: list[Any]) -> None:
        """Raises what Redis raises."""
        keys, values = [key for key, _, _ in rows], [each for _, value, seconds in rows for each in (value, seconds)]
        self.client.eval(STORE_IN_REDIS, len(keys), *keys, *values)
