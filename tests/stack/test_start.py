"""One command, from nothing, as often as one likes."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.stack.project import IMAGE, SERVICES, Stack, docker

pytestmark = pytest.mark.stack

LARGEST_IMAGE = 260_000_000  # bytes, unpacked


def test_one_command_in_a_fresh_clone_starts_every_service(stack: Stack) -> None:
    assert stack.health() == dict.fromkeys(SERVICES, "healthy")
    for one_shot in ("secrets", "migrate"):
        assert stack.container(one_shot)["State"]["ExitCode"] == 0


def test_the_site_answers_through_nginx(stack: Stack) -> None:
    page = stack.visitor().get("/")
    assert page.status == 200
    assert "does not lose work" in page.text
    assert page.headers["X-Request-ID"]


def test_a_second_up_changes_nothing(stack: Stack) -> None:
    def state() -> dict[str, str]:
        return {
            container["Id"]: container["State"]["StartedAt"]
            for container in stack.containers()
            if container["State"]["Running"]
        }

    stack.give_feedback("kept over the second up")
    before, credentials = state(), stack.credentials()
    up = stack.up()
    assert state() == before
    assert stack.credentials() == credentials
    assert stack.sql("SELECT 1 FROM feedback_feedback WHERE message = 'kept over the second up'")
    assert stack.site in up.stdout, "`make up` ends with the addresses"
    assert credentials["Admin"][1] not in up.stdout + up.stderr


def test_the_image_is_small(stack: Stack) -> None:
    size = json.loads(docker("image", "inspect", IMAGE).stdout)[0]["Size"]
    assert size <= LARGEST_IMAGE, f"{size / 1e6:.0f} MB"


def test_two_migrations_at_once_of_an_empty_database_both_succeed(stack: Stack) -> None:
    stack.exec("postgres", "sh", "-c", 'createdb -U "$POSTGRES_USER" empty')
    command = ("run", "--rm", "--no-deps", "-T", "-e", "POSTGRES_DB=empty", "migrate")
    with ThreadPoolExecutor() as pool:
        both = [pool.submit(stack.compose, *command) for _ in range(2)]
        said = [each.result().stdout for each in both]
    assert sum("admin created" in text for text in said) == 1
    stack.exec("postgres", "sh", "-c", 'dropdb -U "$POSTGRES_USER" empty')
