"""Two views, one of which sends a task; served by gunicorn with BENCH_PEER, a module of bench/peers.

All columns have the same Django around the call: no middleware, and the settings of the column where it has some.
"""

import os
from importlib import import_module

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

if not os.environ.get("DJANGO_SETTINGS_MODULE"):
    settings.configure(SECRET_KEY="only-for-benchmarks", ALLOWED_HOSTS=["*"])
peer = import_module(os.environ["BENCH_PEER"])
settings.ROOT_URLCONF, settings.MIDDLEWARE = __name__, []
if hasattr(peer, "connect"):
    peer.connect()


def empty(request: HttpRequest) -> HttpResponse:
    return done()


def send(request: HttpRequest) -> HttpResponse:
    peer.send(0, 0.0)
    return done()


def done() -> HttpResponse:
    return HttpResponse("done", headers={"Content-Length": "4"})  # Django's middleware would set it


urlpatterns = [path("empty", empty), path("send", send)]
application = get_wsgi_application()
