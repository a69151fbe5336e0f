"""A fetch from a real server: what it takes, what it refuses, and how long it lets itself be kept."""

import gzip
import socket
import ssl
import threading
import time
import tracemalloc

import httpx
import pytest

from demos.pages import network
from demos.pages.errors import PageError, PassingError
from demos.pages.fetch import LARGEST, fetch
from demos.pages.tests.conftest import HTML, Site
from tests.tls import make_certificate


def refusal(url):
    """Why this URL is not fetched; for good, not for now."""
    with pytest.raises(PageError) as refused:
        fetch(url)
    assert not isinstance(refused.value, PassingError)
    return str(refused.value)


def failure(url):
    """Why this URL is not fetched now."""
    with pytest.raises(PassingError) as failed:
        fetch(url)
    return str(failed.value)


def test_a_page_is_fetched_and_unpacked(site):
    site.page("/", gzip.compress(HTML), kind="text/html; charset=iso-8859-1", Content_Encoding="gzip")
    fetched = fetch(site.url("/"))

    assert (fetched.url, fetched.status, fetched.charset, fetched.body) == (site.url(), 200, "iso-8859-1", HTML)


def test_the_server_is_told_who_asks_and_by_which_name(site, name_server, settings):
    name_server["bees.example"] = ["127.0.0.1"]
    fetch(site.url(host="bees.example"))

    headers = site.requests[0][1]
    assert headers["Host"] == f"bees.example:{site.port}"
    assert headers["User-Agent"] == "Celeriac (+http://localhost:8080)"


# --- Addresses -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0x7f.1",
        "2130706433",
        "0",
        "169.254.169.254",
    ],
)
def test_our_own_network_is_refused_however_it_is_written(site, settings, host):
    settings.PAGES_ALLOWED_ADDRESSES = []

    assert "has no public address" in refusal(site.url(host=host))
    assert site.requests == []


def test_one_private_address_among_public_ones_refuses_the_host(site, monkeypatch):
    def getaddrinfo(host, port, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in ("8.8.8.8", "10.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    assert "has no public address" in refusal("http://both.example/")


def test_a_private_name_and_one_that_does_not_exist_are_told_alike(name_server):
    name_server["redis"] = ["10.0.0.1"]
    name_server["rediss"] = [socket.gaierror(socket.EAI_NONAME, "")]

    assert refusal("http://redis/").replace("redis", "") == refusal("http://rediss/").replace("rediss", "")


def test_a_public_host_is_fetched_from_the_webs_own_ports_only(name_server):
    name_server["mail.example"] = ["8.8.8.8"]

    assert refusal("http://mail.example:25/") == "Pages are fetched from the ports 80 and 443 only, not from 25."


def test_only_the_allowed_port_of_an_allowed_address_is_fetched_from(site):
    other = Site()
    try:
        assert "has no public address" in refusal(other.url())
        assert other.requests == []
    finally:
        other.close()


def test_a_host_may_be_allowed_by_its_name(site, settings):
    settings.PAGES_ALLOWED_ADDRESSES = [f"localhost:{site.port}"]

    assert fetch(site.url(host="localhost")).body == HTML
    assert "has no public address" in refusal(site.url(host="127.0.0.1"))


@pytest.fixture
def secrets(site):
    """A server inside our network, on the port that is allowed at another address."""
    secrets = Site("127.0.0.2", site.port)
    yield secrets
    secrets.close()


def test_what_a_name_server_says_after_the_check_does_not_matter(site, secrets, name_server):
    url = site.url(host="rebind.example")
    name_server["rebind.example"] = ["127.0.0.1", "127.0.0.2"]
    assert fetch(url).body == HTML
    assert (len(site.requests), secrets.requests) == (1, [])

    # The proof that this test can fail: a check in front of the usual client reaches the secrets.
    name_server["rebind.example"] = ["127.0.0.1", "127.0.0.2"]
    network.checked_addresses("rebind.example", site.port)
    httpx.get(url, trust_env=False)
    assert len(secrets.requests) == 1


def test_a_name_that_changed_before_the_redirect_is_checked_anew(site, secrets, name_server):
    name_server["rebind.example"] = ["127.0.0.1", "127.0.0.2"]
    site.redirect("/", "/next")

    assert "has no public address" in refusal(site.url(host="rebind.example"))
    assert (site.paths, secrets.requests) == (["/"], [])


@pytest.mark.parametrize("address", ["http://user:secret@example.org/", "http://user@example.org/"])
def test_credentials_are_refused(address):
    assert "Leave out the user name and the password" in refusal(address)


def test_a_proxy_of_the_environment_is_not_asked(site, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    assert fetch(site.url()).body == HTML


# --- Redirects -----------------------------------------------------------------------------------------------


def test_redirects_are_followed_to_the_page(site):
    for number in range(5):
        site.redirect(f"/{number}", f"{number + 1}", status=301 + number % 2)
    site.page("/5", HTML)

    assert fetch(site.url("/0")).url == site.url("/5")


def test_redirects_without_end_are_not(site):
    site.redirect("/", "/")

    assert refusal(site.url()) == "It redirects more than 5 times."
    assert len(site.requests) == 6


def test_a_redirect_into_our_own_network_is_refused(site, secrets):
    site.redirect("/", secrets.url())

    assert "127.0.0.2 has no public address" in refusal(site.url())
    assert secrets.requests == []


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://example.org/", "http://user:pw@example.org/", "http://[1/"]
)
def test_a_redirect_to_what_is_no_web_address_is_refused(site, to):
    site.redirect("/", to)

    assert refusal(site.url()) == "It redirects to an address that is not fetched."


# --- Answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 403, 404, 410, 304])
def test_an_error_of_ours_is_final(site, status):
    site.page("/", status=status)

    assert refusal(site.url()).startswith(f"The server answered {status} ")


@pytest.mark.parametrize("status", [500, 502, 503, 429, 408])
def test_an_error_of_the_servers_may_pass(site, status):
    site.page("/", status=status)

    assert failure(site.url()).startswith(f"The server answered {status} ")


def test_a_server_that_is_away_may_come_back(site):
    site.close()

    assert failure(site.url()) == "The connection failed."


def test_a_name_that_cannot_be_looked_up_now_may_be_later(name_server):
    name_server["slow.example"] = [socket.gaierror(socket.EAI_AGAIN, "")]

    assert failure("http://slow.example/") == "The address of slow.example could not be looked up."


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("application/pdf", "It is application/pdf, and only HTML is read."),
        ("", "It is of no known type, and only HTML is read."),
    ],
)
def test_only_html_is_read(site, kind, sentence):
    site.page("/", b"%PDF", kind=kind)

    assert refusal(site.url()) == sentence


def test_the_largest_page_is_read_and_a_larger_one_is_not(site):
    site.page("/", b"0" * LARGEST)
    assert len(fetch(site.url()).body) == LARGEST

    site.page("/", b"0" * (LARGEST + 1))
    assert refusal(site.url()) == "It is larger than 2 MB."


def test_a_bomb_is_counted_unpacked_and_never_held_whole(site, bomb):
    site.page("/", bomb, Content_Encoding="gzip")
    tracemalloc.start()
    try:
        assert refusal(site.url()) == "It is larger than 2 MB."
        assert tracemalloc.get_traced_memory()[1] < 4 * LARGEST
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("encoding", "sentence"),
    [("gzip", "It is packed wrongly."), ("gzip, gzip", "It is packed in a way"), ("br", "It is packed in a way")],
)
def test_what_cannot_be_unpacked_is_refused(site, encoding, sentence):
    site.page("/", HTML, Content_Encoding=encoding)

    assert sentence in refusal(site.url())


# --- Time ----------------------------------------------------------------------------------------------------


@pytest.fixture
def _short(monkeypatch):
    monkeypatch.setattr("demos.pages.fetch.DEADLINE", 1.0)
    monkeypatch.setattr("demos.pages.fetch.PATIENCE", 0.5)


def drip(first):
    """A byte each tenth of a second, for a minute: no pause is ever long enough for a time-out."""

    def answer(handler):
        try:
            handler.wfile.write(first)
            for _ in range(600):
                handler.wfile.write(b"x")
                time.sleep(0.1)
        except OSError:
            pass

    return answer


@pytest.mark.usefixtures("_short")
@pytest.mark.parametrize(
    "first",
    [b"HTTP/1.1 200 OK\r\nX-", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 600\r\n\r\n"],
    ids=["headers", "body"],
)
def test_a_server_that_drips_is_left_at_the_deadline(site, first):
    site.answers["/"] = [drip(first)]
    began = time.monotonic()

    assert failure(site.url()) == "It did not answer in time."
    assert time.monotonic() - began < 20  # of a minute


def test_the_deadline_is_one_for_all_redirects(site, monkeypatch):
    monkeypatch.setattr("demos.pages.fetch.DEADLINE", 7.0)

    def slowly(handler):
        time.sleep(2.0)
        handler.wfile.write(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")

    site.answers["/"] = [slowly]

    assert failure(site.url()) == "It did not answer in time."
    assert len(site.requests) == 4


@pytest.mark.usefixtures("_short")
def test_a_server_that_says_nothing_is_left_after_the_shorter_patience(site, monkeypatch):
    monkeypatch.setattr("demos.pages.fetch.DEADLINE", 30.0)
    over = threading.Event()
    site.answers["/"] = [lambda handler: over.wait(30)]
    began = time.monotonic()

    assert failure(site.url()) == "It did not answer in time."
    assert time.monotonic() - began < 10
    over.set()


# --- TLS -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tls_site(site, tmp_path, monkeypatch):
    """``site`` with a certificate for bees.example alone, which we trust."""
    certificate, key = make_certificate(tmp_path, "bees.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    site.asked_for = []
    context.sni_callback = lambda socket, name, context: site.asked_for.append(name)
    site.server.socket = context.wrap_socket(site.server.socket, server_side=True)
    monkeypatch.setattr(network, "tls", lambda: ssl.create_default_context(cafile=certificate))
    return site


def test_the_certificate_is_the_names_although_the_address_is_connected_to(tls_site, name_server):
    name_server["bees.example"] = name_server["wasps.example"] = ["127.0.0.1"]

    assert fetch(f"https://bees.example:{tls_site.port}/").body == HTML
    assert refusal(f"https://wasps.example:{tls_site.port}/") == "Its certificate is not valid for this name."
    assert tls_site.asked_for == ["bees.example", "wasps.example"]
