"""A real web server, names that resolve as a test says, and the one allowance that lets a test be fetched."""

import gzip
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from demos.pages.models import Batch, Page

HTML = b"<title>Bees</title><meta name='description' content='All about them.'><p>Bees dance. <a href='/why'>Why?</a>"


class Site:
    """Answers each path as told, and keeps the requests it got."""

    def __init__(self, host="127.0.0.1", port=0):
        self.host, self.answers, self.requests = host, {}, []
        self.page("/", HTML)
        self.server = ThreadingHTTPServer((host, port), self.handler())
        self.server.daemon_threads = True
        self.port = self.server.server_port
        self.address = f"{host}:{self.port}"
        threading.Thread(target=self.server.serve_forever, args=[0.05], daemon=True).start()

    def url(self, path="/", host=""):
        return f"http://{host or self.host}:{self.port}{path}"

    def page(self, path, body=b"", status=200, kind="text/html", **headers):
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[path] = [(status, {"Content-Type": kind, **headers}, body)]

    def redirect(self, path, to, status=302):
        self.page(path, status=status, Location=to)

    def fails_first(self, path, times, status=500):
        """Before it answers as it did."""
        self.answers[path] = [(status, {}, b"")] * times + self.answers[path]

    def handler(site):  # noqa: N805  `self` is the handler's
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                site.requests.append((self.path, dict(self.headers)))
                answers = site.answers.get(self.path) or [(404, {}, b"")]
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if callable(answer):
                    return answer(self)
                status, headers, body = answer
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                with suppress(OSError):  # hung up on, as a page that is too large
                    self.wfile.write(body)

            def log_message(self, *args):
                pass

        return Handler

    @property
    def paths(self):
        return [path for path, headers in self.requests]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site(settings):
    """The one server that may be fetched from."""
    site = Site()
    settings.PAGES_ALLOWED_ADDRESSES = [site.address]
    yield site
    site.close()


@pytest.fixture
def name_server(monkeypatch):
    """``name_server["host"] = [first answer, second answer, …]``; the last one stays. Real names are not asked."""
    answers: dict[str, list] = {}
    resolve = socket.getaddrinfo

    def getaddrinfo(host, port, *args, **options):
        known = answers.get(host, [host])
        answer = known.pop(0) if len(known) > 1 else known[0]
        if isinstance(answer, Exception):
            raise answer
        return resolve(answer, port, *args, **options | {"flags": socket.AI_NUMERICHOST})

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return answers


@pytest.fixture
def bomb():
    """20 KB that unpack to 20 MB."""
    return gzip.compress(b"0" * 20_000_000)


@pytest.fixture
def page(db, site):
    return Page.objects.create(batch=Batch.objects.create(task_id="a task"), url=site.url())
