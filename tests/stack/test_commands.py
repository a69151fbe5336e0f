"""The commands of the tutorials, typed by hand in a container, and those of the Makefile."""

import socket

import pytest

from tests.stack.project import SERVICES, Stack

pytestmark = pytest.mark.stack

#: Starts a command, waits for a word in what it says, and stops it.
BY_HAND = """
log=$(mktemp); {command} >$log 2>&1 & pid=$!
for i in $(seq 600); do grep -q '{word}' $log && break; kill -0 $pid 2>/dev/null || break; sleep 0.2; done
kill $pid; wait $pid; cat $log; rm $log
"""


def by_hand(stack: Stack, service: str, command: str, word: str) -> str:
    return stack.exec(service, "bash", "-c", BY_HAND.format(command=command, word=word)).stdout


def test_inspect_ping_is_answered_by_both_workers(stack: Stack) -> None:
    said = stack.exec("worker", "celery", "-A", "config", "inspect", "--timeout", "10", "ping").stdout
    assert "2 nodes online" in said
    assert "default@" in said
    assert "heavy_tasks@" in said


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_a_worker_by_hand_runs_beside_the_service_and_does_not_answer_for_it(stack: Stack, pool: str) -> None:
    said = by_hand(stack, "worker", f"celery -A config worker -l INFO -P {pool} -Q heavy_tasks", "ready")
    assert "ready" in said
    assert "Traceback" not in said
    files = stack.exec("worker", "sh", "-c", "ls /tmp/*.alive").stdout.split()
    assert files == ["/tmp/worker-default.alive"], "the service's own, neither joined nor removed by another's"
    assert stack.can("worker", "/services/worker/healthcheck default")


def test_beat_by_hand(stack: Stack) -> None:
    said = by_hand(stack, "worker", "celery -A config beat -l INFO", "Starting")
    assert "Starting" in said
    assert "Traceback" not in said


def test_flower_by_hand(stack: Stack) -> None:
    said = by_hand(stack, "worker", "celery -A config flower --port=5999", "Connected to")
    assert "Connected to" in said
    assert "Traceback" not in said


def test_check_deploy_passes(stack: Stack) -> None:
    stack.exec("worker", "python", "manage.py", "check", "--deploy")


def test_no_migration_is_missing(stack: Stack) -> None:
    stack.exec("worker", "python", "manage.py", "makemigrations", "--check", "--dry-run")


def test_make_lists_its_commands(stack: Stack) -> None:
    listed = stack.make().stdout
    for command in ("init", "up", "down", "credentials", "rotate", "logs", "ps", "scale-workers", "demo", "mail"):
        assert f"make {command} " in listed
    for command in ("test", "test-unit", "test-stack", "lint", "lock", "images", "shell", "manage", "superuser", "dev"):
        assert f"make {command} " in listed


def test_make_ps_names_every_service_and_how_it_is(stack: Stack) -> None:
    rows = stack.make("ps").stdout.splitlines()[1:]
    healthy = {row.split()[0] for row in rows if "(healthy)" in row}
    assert healthy == set(SERVICES)


def test_make_credentials_prints_logins_that_work(stack: Stack) -> None:
    assert stack.credentials().keys() == {"Admin", "Flower"}
    assert stack.admin().get("/admin/").status == 200
    assert stack.flower_user().get("/").status in {200, 302}


def test_make_mail_answers_while_mail_goes_to_a_server(stack: Stack) -> None:
    assert stack.make("mail").stdout.strip() == "No mail yet."


def test_make_manage_runs_django_commands(stack: Stack) -> None:
    assert "[X] 0001_initial" in stack.make("manage", "C=showmigrations accounts").stdout


def test_make_up_names_a_port_that_is_taken(stack: Stack) -> None:
    stack.compose("stop", "nginx")
    try:
        with socket.create_server(("127.0.0.1", 18080)):
            up = stack.make("up", check=False)
    finally:
        stack.compose("start", "nginx")
    assert up.returncode
    assert "Port 18080 is taken" in up.stderr
