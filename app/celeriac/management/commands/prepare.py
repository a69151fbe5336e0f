"""``manage.py prepare``: everything the database needs before the stack starts; what `migrate` runs."""

import time
from typing import Any

from django.contrib.auth import get_user_model
from django.core.management import BaseCommand, CommandParser, call_command
from django.db import OperationalError, connection
from django.db.backends.utils import CursorWrapper
from django.db.models import Q

from celeriac.schedules.seed import seed
from config import env

#: Any number will do, as long as nobody else locks on it.
LOCK = 0x63656C6572696163  # "celeriac"


class Command(BaseCommand):
    help = "Migrate, make the cache table, seed the schedules, create the first admin; two at once are fine."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reset-admin", action="store_true", help="only give the first admin ADMIN_PASSWORD")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            connection.ensure_connection()
        except OperationalError as error:
            raise env.ConfigError(explain(str(error))) from None
        if options["reset_admin"]:
            return self.reset_admin()
        with connection.cursor() as cursor:
            # Asked again and again: one query that waits would hold a snapshot, and CREATE INDEX CONCURRENTLY
            # in the other one's migration would wait for that.
            while not locked(cursor):
                time.sleep(0.2)
            try:
                call_command("migrate", interactive=False)
                call_command("createcachetable")
                for name in seed():
                    self.stdout.write(f"schedule created: {name}")
                self.create_admin()
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [LOCK])

    def create_admin(self) -> None:
        """The first superuser, with the generated password; later its password is changed in the admin."""
        users, name = get_user_model().objects, env.text("ADMIN_USERNAME", "admin")
        if users.filter(Q(is_superuser=True) | Q(username=name)).exists():  # one who is no longer admin stays so
            return
        password = env.secret("ADMIN_PASSWORD", default="")
        if not password:
            self.stdout.write("no admin created: ADMIN_PASSWORD is not set; see `manage.py createsuperuser`")
            return
        users.create_superuser(name, env.text("ADMIN_EMAIL", f"{name}@localhost"), password)
        self.stdout.write(f"admin created: {name}")

    def reset_admin(self) -> None:
        name = env.text("ADMIN_USERNAME", "admin")
        user = get_user_model().objects.filter(username=name).first()
        if not user:
            raise env.ConfigError(f"there is no user {name}; ADMIN_USERNAME says who the first admin is.")
        user.set_password(env.secret("ADMIN_PASSWORD"))
        user.save()


def locked(cursor: CursorWrapper) -> bool:
    cursor.execute("SELECT pg_try_advisory_lock(%s)", [LOCK])
    return cursor.fetchone()[0]


def explain(error: str) -> str:
    if "password authentication failed" in error:
        return (
            "Postgres refuses POSTGRES_PASSWORD: its data were made with another one; put the old one back, "
            "or run `make rotate SECRET=POSTGRES_PASSWORD` to give the database the new one."
        )
    return f"Postgres does not let us in: {' '.join(error.split())}"
