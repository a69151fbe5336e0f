"""Health that is true: what is stuck turns red, and what stays stuck ends itself and is started again."""

import json

import pytest

from tests.stack.project import Stack
from tests.waiting import eventually

pytestmark = pytest.mark.stack

#: Half a minute without a beat, then three probes ten seconds apart; some more on a slow machine.
TURNS_RED = 150


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
    eventually(lambda: readiness()["broker"] == "ok", 30)


def test_what_is_frozen_turns_red_and_recovers(stack: Stack) -> None:
    """All at once, because turning red takes a minute on purpose."""
    main = [stack.main_pid(service) for service in ("worker", "beat", "flower")]
    families = [pid for service in ("web", "nginx") for pid, _, command in stack.pids(service) if "tini" not in command]
    heavy, (child,) = stack.container("worker-heavy")["State"]["StartedAt"], children(stack, "worker-heavy")
    been_red: set[str] = set()

    def turned_red() -> bool:
        been_red.update(service for service, health in stack.ill().items() if health == "unhealthy")
        return been_red >= {"worker", "worker-heavy", "beat", "flower", "nginx", "web"}

    stack.signal("STOP", *main, *families, child)
    try:
        eventually(turned_red, TURNS_RED, "everything that is frozen has been unhealthy", every=1)
    finally:
        stack.signal("CONT", *main, *families)
    assert been_red == {"worker", "worker-heavy", "beat", "flower", "nginx", "web"}
    stack.healthy()
    # Its loop turned all the while, so it has only replaced the child that did not.
    assert child not in children(stack, "worker-heavy")
    assert stack.container("worker-heavy")["State"]["StartedAt"] == heavy
    assert stack.result(stack.send("config.tasks.debug_task", queue="heavy_tasks"))["status"] == "SUCCESS"


def children(stack: Stack, service: str) -> list[int]:
    main = stack.main_pid(service)
    return [pid for pid, parent, _ in stack.pids(service) if parent == main]


def test_a_probe_is_cheap(stack: Stack) -> None:
    """No Python starts: a hundred of them take less than one start of Python and Celery would."""
    for service, probe in (("worker", "/services/worker/healthcheck default"), ("beat", "/services/beat/healthcheck")):
        hundred = f"TIMEFORMAT=%U+%S; time (for i in {{1..100}}; do {probe} || exit 1; done)"
        user, _, system = stack.exec(service, "bash", "-c", hundred).stderr.strip().partition("+")
        assert float(user) + float(system) < 2.0
