"""Views that do nothing, send a task, or send Redis a command; for gunicorn, with BENCH_PEER, a module of bench/peers.

All columns have the same Django around the call: no middleware, and the settings of the column where it has some.
With BENCH_SITE it is this repository's site, with its middleware and its log.
"""

import os
import socket
import threading
from importlib import import_module

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

from bench.peers.addresses import HOST, PASSWORD, PORT

if not os.environ.get("DJANGO_SETTINGS_MODULE"):
    settings.configure(SECRET_KEY="only-for-benchmarks", ALLOWED_HOSTS=["*"])
peer = import_module(os.environ["BENCH_PEER"])
if os.environ.get("BENCH_SITE"):
    from config.wsgi import application
else:
    settings.MIDDLEWARE = []
    application = get_wsgi_application()
settings.ROOT_URLCONF = __name__
if hasattr(peer, "connect"):
    peer.connect()

#: As large as a message of Celery's for a small task.
COMMAND = b"*3\r\n$5\r\nLPUSH\r\n$5\r\nbench\r\n$1400\r\n%s\r\n" % (b"x" * 1400)
local = threading.local()


def empty(request: HttpRequest) -> HttpResponse:
    return done()


def send(request: HttpRequest) -> HttpResponse:
    peer.send(0, 0.0)
    return done()


def bare(request: HttpRequest) -> HttpResponse:
    """The least that any queue in Redis costs: a command that is ready made, on a plain socket, and its answer."""
    if not hasattr(local, "socket"):
        local.socket = socket.create_connection((HOST, PORT))
        local.socket.sendall(f"AUTH {PASSWORD}\r\n".encode())
        local.socket.recv(100)
    local.socket.sendall(COMMAND)
    local.socket.recv(100)
    return done()


def done() -> HttpResponse:
    return HttpResponse("done", headers={"Content-Length": "4"})  # Django's middleware would set it


urlpatterns = [path("empty", empty), path("send", send), path("bare", bare)]
