"""The Celery app: ``celery -A config worker``, ``… beat``, ``… flower`` find it here."""

import os

import click
from celery.signals import setup_logging

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

# A wrong variable stops the start here, in one sentence, before Celery can wrap it in a traceback.
from celeriac.app import Celery
from config import logs, settings

# Celery's command line takes CELERY_<COMMAND>_<OPTION> variables for its options: CELERY_BEAT_SCHEDULE
# would become a file name. Here such a variable is a setting, and nothing else.
_context = click.get_current_context(silent=True)
if _context:
    _context.find_root().auto_envvar_prefix = None

app = Celery("config")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.autodiscover_tasks(["config"])


@setup_logging.connect
def configure_logging(loglevel: int | None = None, **kwargs: object) -> None:
    """Celery's processes log as Django's do; ``-l DEBUG`` on the command line still counts."""
    logs.configure(logs.config(loglevel or settings.LOG_LEVEL, settings.LOG_FORMAT))


from celeriac import transport, worker  # noqa: E402

if not getattr(settings, "CELERY_BROKER_TRANSPORT", None):
    transport.install()
worker.install(app)
