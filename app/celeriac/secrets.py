"""The one-shot service ``secrets``: makes every secret that the environment does not give, once.

A file each on one volume, with a group each: a service is a member of the groups of the secrets it may read
(``group_add`` in compose.yaml), so Flower cannot read Postgres's password although it mounts the volume.
The files belong to a user that runs nothing else, and this program needs no root and no capability.
"""

import os
import secrets
import sys
from pathlib import Path

from config import env
from config.env import ConfigError, strong

FOLDER = Path(os.environ.get("SECRETS_DIR", "/run/secrets"))
#: Where compose.yaml mounts the file that ``NAME_FILE`` names.
GIVEN = Path(os.environ.get("GIVEN_DIR", "/run/given"))
#: Secret -> the group that may read it; compose.yaml gives the services these numbers.
GROUPS = {
    "DJANGO_SECRET_KEY": 20001,
    "POSTGRES_PASSWORD": 20002,
    "REDIS_PASSWORD": 20003,
    "FLOWER_PASSWORD": 20004,
    "ADMIN_PASSWORD": 20005,
    "EMAIL_URL": 20006,
    "DATABASE_URL": 20007,
    "CELERY_BROKER_URL": 20008,
}
#: Addresses with a password in them: given or left out, never made.
OPTIONAL = {"EMAIL_URL", "DATABASE_URL", "CELERY_BROKER_URL"}


def path(name: str) -> Path:
    return FOLDER / name.lower()


def given(name: str) -> str:
    """The secret as the environment, or the file mounted from ``NAME_FILE``, gives it; else an empty text."""
    value = os.environ.get(name, "").strip()
    mounted = GIVEN / name.lower()
    if mounted.is_dir():
        raise ConfigError(f"the file that {name}_FILE names does not exist on this machine.")
    if not value and mounted.is_file():
        try:
            value = mounted.read_text().strip()
        except OSError as error:
            raise ConfigError(
                f"the file that {name}_FILE names cannot be read in the container ({error.strerror}); "
                f"let user {os.getuid()} or everyone read it."
            ) from None
        if not value:
            raise ConfigError(f"the file that {name}_FILE names is empty.")
    return value if not value or name in OPTIONAL else strong(name, value)


def kept(name: str) -> str:
    """The secret that was made before, or an empty text; a file that a crash left empty was never used."""
    return path(name).read_text() if path(name).exists() else ""


def write(name: str, value: str) -> None:
    """Replace the secret's file in one step, readable by its group alone."""
    new = path(name).with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o400)
    os.chown(new, -1, GROUPS[name])
    new.chmod(0o640)
    with new.open("w") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    new.chmod(0o440)
    new.replace(path(name))


def make() -> None:
    """Write each secret that is not there yet; refuse one that changed under existing data."""
    for name in GROUPS:
        value, old = given(name), kept(name)
        if name in OPTIONAL:
            write(name, value)
        elif not old:
            write(name, value or secrets.token_urlsafe(32))
        elif value and value != old:
            raise ConfigError(
                f"{name} is not the one this stack's data were made with; put the old one back, or run "
                f"`make rotate SECRET={name}` to change it everywhere."
            )


def rotate(name: str) -> None:
    """Write the secret that the environment gives, or a new one; scripts/rotate tells those who use it."""
    if name not in GROUPS or name in OPTIONAL:
        raise ConfigError(f"SECRET={name} cannot be rotated; it is one of {', '.join(sorted(set(GROUPS) - OPTIONAL))}.")
    if kept(name) == given(name):
        print(f"{name} stays as the environment gives it; edit or delete that line to have a new one.")  # noqa: T201
    write(name, given(name) or secrets.token_urlsafe(32))


def show(passwords: bool) -> None:
    """Print where people go, and what they log in with."""
    site = env.public_url()
    rows = [
        ("Site", site, "", ""),
        ("Admin", f"{site}/admin/", env.text("ADMIN_USERNAME", "admin"), "ADMIN_PASSWORD"),
        ("Flower", env.flower_url(), env.text("FLOWER_USERNAME", "flower"), "FLOWER_PASSWORD"),
    ]
    for title, address, user, name in rows:
        login = f"{user}  {kept(name) or 'not made yet: make up'}" if name and passwords else ""
        print(f"{title:<8}{address:<36}{login}".rstrip())  # noqa: T201
    if passwords:
        print("The admin's password is the first one; one that was changed in the admin is not known here.")  # noqa: T201
    else:
        print("The logins: make credentials")  # noqa: T201


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            make()
        case ["addresses"]:
            show(passwords=False)
        case ["show"]:
            show(passwords=True)
        case ["rotate", name]:
            rotate(name)
        case _:
            sys.exit("usage: secrets [show | addresses | rotate NAME]")
