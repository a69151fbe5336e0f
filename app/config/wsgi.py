"""What gunicorn serves: Django, behind the health probes."""

import logging
import os
from typing import Any
from wsgiref.util import setup_testing_defaults

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import psycopg_pool  # noqa: F401  else Django loads it into each process
from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.urls import get_resolver

from celeriac.health.web import Health


def answer_a_page() -> None:
    """Load and compile here what the first page needs, once, and not in each process: 6 MB in each."""
    get_resolver().url_patterns  # noqa: B018  the views
    environ: dict[str, Any] = {"PATH_INFO": "/admin/login/", "HTTP_HOST": settings.ALLOWED_HOSTS[0]}
    setup_testing_defaults(environ)
    logging.disable()
    try:
        django.get_response(WSGIRequest(environ)).close()
    finally:
        logging.disable(logging.NOTSET)
        # The page asks Postgres nothing; a middleware of yours may, and a connection does not outlive a fork.
        connection.close()
        connection.close_pool()  # type: ignore[attr-defined]


django = get_wsgi_application()
application = Health(django)
answer_a_page()
