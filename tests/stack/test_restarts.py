"""Every part may go away, by hand or by SIGKILL, and comes back without one."""

import json
import time

import pytest

from tests.stack.mailserver import MailServer
from tests.stack.project import SERVICES, Stack
from tests.waiting import eventually

pytestmark = pytest.mark.stack


def feedback_works(stack: Stack, mail: MailServer, message: str) -> None:
    answer = stack.give_feedback(message)
    assert answer.status == 302
    stack.delivered(answer.location)
    assert len(mail.about(message)) == 1


@pytest.mark.parametrize("service", SERVICES)
def test_a_restarted_container_is_found_by_all_others(stack: Stack, mail: MailServer, service: str) -> None:
    stack.compose("restart", service)
    stack.healthy()
    feedback_works(stack, mail, f"after the restart of {service}")


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_process_is_started_again(stack: Stack, mail: MailServer, service: str) -> None:
    before = stack.container(service)["State"]["StartedAt"]
    stack.signal("KILL", stack.main_pid(service))
    eventually(lambda: stack.container(service)["State"]["StartedAt"] != before, what="Docker has started it again")
    stack.healthy()
    feedback_works(stack, mail, f"after the death of {service}")


@pytest.mark.parametrize("service", ["redis", "postgres"])
def test_a_task_that_runs_while_a_server_restarts_runs_once(stack: Stack, service: str) -> None:
    path, queues = f"/var/lib/celeriac/notes-{service}", ("default", "heavy_tasks")
    both = f"[app.send_task('tests.tasks.work', ({path!r}, f'long-{{q}}', 20), queue=q).id for q in {queues!r}]"
    long = stack.python(f"print(*{both})").split()[-2:]
    eventually(lambda: len(stack.notes(path)) >= 2, what="both have begun")
    stack.compose("restart", service)
    assert [stack.result(each, 90)["status"] for each in long] == ["SUCCESS"] * 2
    stack.healthy()
    # A copy that was put back into its queue would run before these.
    later = [stack.send("tests.tasks.work", path, "later", queue=queue) for queue in queues]
    assert [stack.result(each)["status"] for each in later] == ["SUCCESS"] * 2
    ran = sorted(note for note in stack.notes(path) if note.startswith("long"))
    assert ran == sorted(f"long-{queue} {what}" for queue in queues for what in ("began", "ended"))


def test_while_web_is_away_nginx_says_so_and_comes_back_without_a_reload(stack: Stack) -> None:
    nginx = stack.container("nginx")["State"]["StartedAt"]
    stack.compose("stop", "web")
    try:
        away = stack.visitor().get("/")
        assert away.status == 503
        assert "One moment" in away.text
        assert away.headers["Retry-After"] == "5"
    finally:
        stack.compose("up", "--detach", "--force-recreate", "--wait", "web")
    eventually(lambda: stack.visitor().get("/").status == 200, 60, "the site is back")
    assert stack.container("nginx")["State"]["StartedAt"] == nginx


def test_more_web_replicas_are_used_without_a_reload(stack: Stack) -> None:
    nginx = stack.container("nginx")["State"]["StartedAt"]

    def web(replicas: int) -> set[str]:
        scale = ("--no-recreate", "--scale", f"web={replicas}", "--wait", "web")
        stack.compose("up", "--detach", *scale)
        networks = [each["NetworkSettings"]["Networks"] for each in stack.containers("web")]
        return {f"{each['celeriac-test_edge']['IPAddress']}:8000" for each in networks}

    def served_by(since: float) -> set[str]:
        assert stack.visitor().get("/").status == 200
        lines = [json.loads(line) for line in stack.logs("nginx", since=str(since)).splitlines() if line[:1] == "{"]
        return {line["upstream"] for line in lines if line["request"].startswith("GET / ")}

    try:
        addresses, since = web(2), time.time()
        eventually(lambda: served_by(since) == addresses, 60, "both replicas serve")
    finally:
        addresses = web(1)
    eventually(lambda: served_by(time.time() - 0.2) <= addresses, 30, "only the one that is left is asked")
    assert stack.container("nginx")["State"]["StartedAt"] == nginx


def test_without_its_broker_the_site_still_takes_feedback_which_is_mailed_when_it_is_back(
    stack: Stack, mail: MailServer
) -> None:
    alive = {"worker": "/tmp/worker-default.alive", "worker-heavy": "/tmp/worker-heavy_tasks.alive"}
    restarts = {service: stack.container(service)["RestartCount"] for service in SERVICES}
    stack.compose("stop", "redis")
    try:
        stopped, visitor = time.time(), stack.visitor()
        answer = stack.give_feedback("sent while Redis was away", visitor)
        assert time.time() - stopped < 20
        assert answer.status == 302
        assert "waiting for a worker" in visitor.get(answer.location).text

        def beats_on(service: str) -> bool:  # the file holds the time until which the worker counts as alive
            return int(stack.exec(service, "stat", "-c", "%Y", alive[service]).stdout) > stopped + 45

        for service in alive:
            eventually(lambda service=service: beats_on(service), 40, f"{service} beats while it waits for its broker")
        assert set(stack.ill()) == {"redis"}
    finally:
        stack.compose("start", "redis")
    stack.healthy()
    assert {service: stack.container(service)["RestartCount"] for service in SERVICES} == restarts
    stack.delivered(answer.location)  # by itself: nobody sends it again
    assert len(mail.about("sent while Redis was away")) == 1
