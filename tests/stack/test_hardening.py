"""What a container may do, where it can get to, and which secrets it can read."""

import json

import pytest

from tests.stack.project import ONE_SHOTS, SERVICES, Stack, docker
from tests.stack.visitor import Visitor

pytestmark = pytest.mark.stack

EVERY_SERVICE = [*ONE_SHOTS, *SERVICES]
#: Secret -> a service that may read it.
SECRETS = {
    "django_secret_key": "web",
    "postgres_password": "postgres",
    "redis_password": "redis",
    "flower_password": "flower",
    "admin_password": "",  # none that stays
}


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_a_container_is_locked_down(stack: Stack, service: str) -> None:
    container = stack.container(service)
    host, config = container["HostConfig"], container["Config"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    user, _, group = config["User"].partition(":")
    assert int(user) > 0, "a numeric user who is not root"
    assert int(group) > 0
    assert host["Memory"] > 0
    assert host["LogConfig"]["Type"] == "json-file"
    assert {"max-size", "max-file"} <= host["LogConfig"]["Config"].keys()
    assert host["RestartPolicy"]["Name"] == ("no" if service in ONE_SHOTS else "unless-stopped")


@pytest.mark.parametrize("service", SERVICES)
def test_no_process_is_root_or_has_a_capability(stack: Stack, service: str) -> None:
    users = docker("top", stack.ids(service)[0], "-eo", "pid,ruid,euid").stdout.splitlines()[1:]
    assert users
    assert all(int(uid) > 0 for line in users for uid in line.split()[1:])
    status = stack.exec(service, "cat", "/proc/1/status").stdout
    assert "CapBnd:\t0000000000000000" in status
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_can_be_written_outside_of_volumes_and_tmp(stack: Stack, service: str) -> None:
    for folder in ("/", "/etc", "/usr/local/bin", "/srv", "/services", "/run/secrets"):
        assert not stack.can(service, f"[ -d {folder} ] && touch {folder}/written"), folder
    assert stack.can(service, "touch /tmp/written && rm /tmp/written")


def test_the_app_cannot_change_its_own_code(stack: Stack) -> None:
    for path in ("/srv/app/manage.py", "/srv/app/config/settings.py", "/services/web/start", "/opt/venv/bin/celery"):
        assert not stack.can("web", f": >>{path}"), path
    own = stack.exec("web", "find", "/srv/app", "/services", "/opt/venv", "-user", "10001").stdout
    assert not own, "code is root's, so it stays unwritable without a read-only file system, too"


def test_only_nginx_publishes_ports(stack: Stack) -> None:
    published = {}
    for service in EVERY_SERVICE:
        bindings = stack.container(service)["HostConfig"]["PortBindings"] or {}
        if bindings:
            published[service] = {port: [each["HostPort"] for each in to] for port, to in bindings.items()}
    assert published == {"nginx": {"8080/tcp": ["18080"], "5555/tcp": ["15555"]}}


def address(stack: Stack, service: str) -> str:
    networks = stack.container(service)["NetworkSettings"]["Networks"].values()
    return next(network["IPAddress"] for network in networks)


def reaches(stack: Stack, service: str, host: str, port: int) -> bool:
    return stack.can(service, f"timeout 3 bash -c 'exec 3<>/dev/tcp/{host}/{port}'")


def test_nginx_cannot_reach_the_database_or_the_broker(stack: Stack) -> None:
    assert reaches(stack, "nginx", "web", 8000), "else the rest proves nothing"
    assert reaches(stack, "worker", "postgres", 5432)
    assert reaches(stack, "worker", address(stack, "redis"), 6379)
    for service, port in (("postgres", 5432), ("redis", 6379)):
        assert not reaches(stack, "nginx", service, port)
        assert not reaches(stack, "nginx", address(stack, service), port)


def test_flower_cannot_reach_the_database(stack: Stack) -> None:
    assert reaches(stack, "flower", "redis", 6379)
    assert not reaches(stack, "flower", "postgres", 5432)
    assert not reaches(stack, "flower", address(stack, "postgres"), 5432)


@pytest.mark.parametrize("service", ["postgres", "redis"])
def test_what_needs_no_world_has_no_way_out(stack: Stack, service: str) -> None:
    default_route = "grep -qP '^\\S+\\t00000000\\t' /proc/net/route"
    assert stack.can("worker", default_route), "workers send mail"
    assert not stack.can(service, default_route)


def test_each_secret_is_read_by_its_users_only(stack: Stack) -> None:
    users = {
        "django_secret_key": {"web", "worker", "worker-heavy", "beat"},
        "postgres_password": {"web", "worker", "worker-heavy", "beat", "postgres"},
        "redis_password": {"web", "worker", "worker-heavy", "beat", "redis", "flower"},
        "flower_password": {"flower"},
        "admin_password": set(),
        "email_url": {"web", "worker", "worker-heavy", "beat"},
        "database_url": {"web", "worker", "worker-heavy", "beat"},
        "celery_broker_url": {"web", "worker", "worker-heavy", "beat", "flower"},
    }
    readers = {
        secret: {service for service in SERVICES if stack.can(service, f"cat /run/secrets/{secret}")}
        for secret in users
    }
    assert readers == users


def secret_values(stack: Stack) -> dict[str, str]:
    values = {
        secret: stack.exec(service, "cat", f"/run/secrets/{secret}").stdout
        for secret, service in SECRETS.items()
        if service
    }
    return {**values, "admin_password": stack.credentials()["Admin"][1]}


def test_no_secret_shows_up_in_environments_command_lines_or_logs(stack: Stack) -> None:
    stack.give_feedback("so that something is logged")
    Visitor(stack.flower, "flower", secret_values(stack)["flower_password"]).get("/workers")
    inspected, logs = json.dumps(stack.containers()), stack.logs()
    commands = " ".join(command for service in SERVICES for _, _, command in stack.pids(service))
    assert len(inspected) > 10_000
    assert len(logs) > 1_000
    for secret, value in secret_values(stack).items():
        assert len(value) >= 32, secret
        assert value not in inspected, f"{secret} shows in `docker inspect`"
        assert value not in commands, f"{secret} shows in `ps`"
        assert value not in logs, f"{secret} is logged"


def test_flower_holds_no_secret_of_others(stack: Stack) -> None:
    values = secret_values(stack)
    environment = stack.exec("flower", "sh", "-c", "cat /proc/[0-9]*/environ | tr '\\0' '\\n'").stdout
    assert values["flower_password"] in environment, "else we looked in the wrong place"
    for secret in ("django_secret_key", "postgres_password", "admin_password"):
        assert values[secret] not in environment
