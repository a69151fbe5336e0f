"""Health that is true: what is stuck turns red, and what stays stuck ends itself and is started again."""

import json

import pytest

from tests.stack.project import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.stack

#: Half a minute without a beat, then three probes ten seconds apart; some more on a slow machine.
TURNS_RED = 90
#: Another minute, then Docker's restart.
ENDS_ITSELF = 90


@pytest.mark.parametrize(
    "path", ["/healthz", "/readyz", "/healthz?x", "//healthz", "/./readyz", "/%72eadyz", "/x/../healthz"]
)
def test_the_probes_are_not_for_the_world(stack: Stack, path: str) -> None:
    answer = stack.visitor().get(stack.site + path)
    assert answer.status == 404
    assert "alive" not in answer.text


def test_web_says_which_of_its_servers_is_away(stack: Stack) -> None:
    ask = "exec 3<>/dev/tcp/127.0.0.1/8000; printf 'GET /readyz HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"

    def readiness() -> dict[str, str]:
        return json.loads(stack.exec("web", "bash", "-c", ask).stdout.splitlines()[-1])

    assert readiness() == {"database": "ok", "broker": "ok"}
    stack.compose("stop", "redis")
    assert readiness()["broker"] != "ok"
    assert readiness()["database"] == "ok"
    assert stack.can("web", "/services/web/healthcheck"), "alive all the same"
    stack.compose("start", "redis")
    eventually(lambda: readiness()["broker"] == "ok", 10)


def test_what_is_frozen_turns_red_and_recovers(stack: Stack) -> None:
    """All at once, because turning red takes a minute on purpose."""
    main = [stack.main_pid(service) for service in ("worker", "beat", "flower")]
    families = [pid for service in ("web", "nginx") for pid, _, command in stack.pids(service) if "tini" not in command]
    children = [pid for pid, parent, _ in stack.pids("worker-heavy") if parent == stack.main_pid("worker-heavy")]
    assert len(children) == 1
    started = stack.container("worker-heavy")["State"]["StartedAt"]
    web_started = stack.container("web")["State"]["StartedAt"]
    stack.signal("STOP", *main, *families, *children)
    try:
        red = {"worker", "worker-heavy", "beat", "flower", "nginx", "web"}
        eventually(lambda: set(stack.ill()) >= red, TURNS_RED, "everything that is frozen is unhealthy", every=1)
        assert set(stack.ill()) == red
    finally:
        stack.signal("CONT", *main, *families)
    eventually(lambda: set(stack.ill()) <= {"worker-heavy"}, 60, "what goes on turns green", every=1)

    # Its loop turns, and sees that its child does not: nothing but its own end can help.
    def ended_itself() -> bool:
        return stack.container("worker-heavy")["State"]["StartedAt"] != started

    eventually(ended_itself, ENDS_ITSELF, "the worker with a frozen child has ended itself", every=1)
    stack.healthy()
    assert stack.container("web")["State"]["StartedAt"] == web_started
    assert stack.result(stack.send("config.tasks.debug_task", queue="heavy_tasks"))["status"] == "SUCCESS"


def test_a_probe_is_cheap(stack: Stack) -> None:
    """No Python starts: a hundred of them take less than one start of Python and Celery would."""
    for service, probe in (("worker", "/services/worker/healthcheck default"), ("beat", "/services/beat/healthcheck")):
        hundred = f"TIMEFORMAT=%U+%S; time (for i in {{1..100}}; do {probe} || exit 1; done)"
        user, _, system = stack.exec(service, "bash", "-c", hundred).stderr.strip().partition("+")
        assert float(user) + float(system) < 2.0
