"""What gunicorn serves: Django, behind the health probes.

gunicorn loads it once, before it forks its processes. So what Django would load at a process's first request, and at
its first query, is loaded here: its processes share it, and each would have 10 MB of its own otherwise.
"""

import encodings.idna  # noqa: F401
import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

import psycopg_pool  # noqa: F401
from django.core.wsgi import get_wsgi_application
from django.template import engines
from django.urls import get_resolver

from celeriac.health.web import Health

application = Health(get_wsgi_application())
get_resolver().url_patterns  # noqa: B018  the views
for engine in engines.all():
    engine.engine.template_loaders, engine.engine.template_context_processors  # noqa: B018
