"""What gunicorn serves: Django, behind the health probes."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

from celeriac.health.web import Health

application = Health(get_wsgi_application())
get_resolver().url_patterns  # noqa: B018 - loads the views here, once, and not in each process at its first request
