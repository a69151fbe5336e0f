"""Secrets that change: refused with one sentence where it would break, changed everywhere by one command."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack.mailserver import MailServer
from tests.stack.project import Stack
from tests.stack.visitor import Visitor

pytestmark = pytest.mark.stack


@pytest.fixture
def dotenv(stack: Stack) -> Iterator[Path]:
    """The clone's ``.env``, which is gone afterwards."""
    path = stack.folder / ".env"
    yield path
    path.unlink(missing_ok=True)


def refused(stack: Stack) -> str:
    """What `make up` says when it does not start; never a traceback."""
    up = stack.make("up", check=False)
    assert up.returncode, "it started"
    assert "Traceback" not in up.stderr + up.stdout
    return up.stderr


def works(stack: Stack, mail: MailServer, message: str) -> None:
    stack.healthy()
    answer = stack.give_feedback(message)
    assert answer.status == 302
    stack.delivered(answer.location)
    assert len(mail.about(message)) == 1


def test_a_password_edited_over_existing_data_is_named_and_can_be_put_back(
    stack: Stack, mail: MailServer, dotenv: Path
) -> None:
    dotenv.write_text("POSTGRES_PASSWORD=another-one-than-before-4711\n")
    said = refused(stack)
    assert "POSTGRES_PASSWORD is not the one this stack's data were made with" in said
    assert "`make rotate SECRET=POSTGRES_PASSWORD`" in said
    works(stack, mail, "what runs goes on")
    dotenv.unlink()
    stack.up()
    works(stack, mail, "the old password is back")


def test_a_given_password_is_rotated_in(stack: Stack, mail: MailServer, dotenv: Path) -> None:
    dotenv.write_text("POSTGRES_PASSWORD=given-by-the-operator-4711\n")
    stack.make("rotate", "SECRET=POSTGRES_PASSWORD")
    assert stack.exec("postgres", "cat", "/run/secrets/postgres_password").stdout == "given-by-the-operator-4711"
    works(stack, mail, "with the given password")
    dotenv.unlink()
    stack.up()  # it is kept: the line is not needed any more
    works(stack, mail, "and without its line")


@pytest.mark.parametrize(
    ("name", "reader"), [("POSTGRES_PASSWORD", "postgres"), ("REDIS_PASSWORD", "redis"), ("DJANGO_SECRET_KEY", "web")]
)
def test_a_rotated_secret_is_new_everywhere(stack: Stack, mail: MailServer, name: str, reader: str) -> None:
    old, admin = (stack.exec(reader, "cat", f"/run/secrets/{name.lower()}").stdout, stack.admin())
    stack.make("rotate", f"SECRET={name}")
    new = stack.exec(reader, "cat", f"/run/secrets/{name.lower()}").stdout
    assert new != old
    assert len(new) >= 32
    works(stack, mail, f"after {name} is rotated")
    assert new not in stack.logs()
    assert admin.get("/admin/").status == (302 if name == "DJANGO_SECRET_KEY" else 200), "sessions end with the key"
    assert stack.admin().get("/admin/").status == 200
    refusal = {
        "POSTGRES_PASSWORD": f"! PGPASSWORD='{old}' psql -h postgres -U celeriac -c 'SELECT 1'",
        "REDIS_PASSWORD": f"REDISCLI_AUTH='{old}' redis-cli ping 2>&1 | grep -q -e WRONGPASS -e NOAUTH",
    }
    assert stack.can(reader, refusal.get(name, "true")), "the old one is refused"


def test_a_rotated_flower_password_replaces_the_old_one(stack: Stack) -> None:
    user, old = stack.credentials()["Flower"]
    stack.make("rotate", "SECRET=FLOWER_PASSWORD")
    stack.healthy()
    new = stack.credentials()["Flower"][1]
    assert new != old
    assert Visitor(stack.flower, user, old).get("/workers").status == 401
    assert Visitor(stack.flower, user, new).get("/workers").status == 200
    rotated = set(stack.ids())
    stack.up()
    assert set(stack.ids()) == rotated, "nothing is left for the next up to restart"


def test_a_rotated_admin_password_replaces_the_old_one(stack: Stack) -> None:
    user, old = stack.credentials()["Admin"]
    stack.make("rotate", "SECRET=ADMIN_PASSWORD")
    new = stack.credentials()["Admin"][1]
    assert new != old
    assert stack.visitor().log_in(user, old).status == 200, "the form again"
    assert stack.visitor().log_in(user, new).status == 302


def test_a_secret_may_come_from_a_file(stack: Stack, dotenv: Path) -> None:
    password = secrets.token_urlsafe(24)
    file = stack.folder / "flower-password.txt"
    file.write_text(f"{password}\n")
    file.chmod(0o644)
    dotenv.write_text("FLOWER_PASSWORD_FILE=./flower-password.txt\n")
    stack.make("rotate", "SECRET=FLOWER_PASSWORD")
    stack.healthy()
    assert Visitor(stack.flower, "flower", password).get("/workers").status == 200
    dotenv.unlink()
    stack.up()  # it is kept: neither the line nor the file is needed any more
    assert Visitor(stack.flower, "flower", password).get("/workers").status == 200


def test_a_secret_that_cannot_be_rotated_is_named(stack: Stack) -> None:
    said = stack.make("rotate", "SECRET=PASSWORD", check=False)
    assert said.returncode
    assert "SECRET=PASSWORD cannot be rotated; it is one of" in said.stderr


WRONG = {
    "FLOWER_PASSWORD=changeme": "FLOWER_PASSWORD is a placeholder",
    "DJANGO_SECRET_KEY=django-insecure-0123456789abcdefghijklmnop": "DJANGO_SECRET_KEY is a placeholder",
    "ADMIN_PASSWORD=short": "ADMIN_PASSWORD is weak",
    "REDIS_PASSWORD_FILE=./no-such-file": "the file that REDIS_PASSWORD_FILE names does not exist",
    "STOP_GRACE_SECONDS=10": "STOP_GRACE_SECONDS (10) leaves a stopping worker no time",
    "CELERY_SOFT_TIME_LIMIT=60": "the nearest one is CELERY_TASK_SOFT_TIME_LIMIT",
    "CELERY_BROKER_URL=amqp://elsewhere": "the only broker Celeriac runs on is Redis",
    "PUBLIC_URL=my-site.org": "PUBLIC_URL=my-site.org is no address",
    "WORKER_REPLICAS=100": "Raise POSTGRES_MAX_CONNECTIONS, or lower the replicas",
}


def test_a_wrong_line_in_dotenv_stops_the_start_is_named_and_leaves_alone_what_runs(
    stack: Stack, mail: MailServer, dotenv: Path
) -> None:
    running, said = set(stack.ids()), {}
    for line in WRONG:
        dotenv.write_text(f"{line}\n")
        said[line] = refused(stack)
    assert {line: sentence for line, sentence in WRONG.items() if sentence not in said[line]} == {}
    assert set(stack.ids()) == running
    works(stack, mail, "as if nothing had happened")
