"""What gunicorn serves: Django, behind the health probes."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

from django.core.wsgi import get_wsgi_application

from celeriac.health.web import Health

application = Health(get_wsgi_application())
