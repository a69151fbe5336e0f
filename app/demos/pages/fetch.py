"""One web page over HTTP: HTML only, and never more or longer than we are ready to take."""

import re
import ssl
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http import HTTPStatus

import httpcore
import httpx
from django.conf import settings

from demos.pages.errors import PageError, PassingError
from demos.pages.network import PublicTransport

DEADLINE = 15.0  # seconds for all of it: redirects, TLS and the last byte of the body
PATIENCE = 5.0  # seconds for a connection, and for each time something is read
LARGEST = 2_000_000  # bytes, unpacked
REDIRECTS = 5
LONGEST_URL = 2000  # characters

HTML = {"text/html", "application/xhtml+xml"}
HOST = re.compile(r"[\w.:-]+")  # or an address, without the brackets of IPv6
BUSY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}


@dataclass
class Fetched:
    url: str
    status: int
    charset: str
    body: bytes


def checked_url(text: str) -> httpx.URL:
    """The URL without its fragment, or a :class:`PageError`; where it leads is checked when it is connected to."""
    try:
        url = httpx.URL(text)
        url = url.copy_with(raw_path=url.raw_path, fragment=None)  # with the slash that "http://host" leaves out
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not HOST.fullmatch(url.host) or (url.port or 80) > 65535:
        raise PageError("Write a web address like https://example.org/page.")
    if url.userinfo:
        raise PageError("Leave out the user name and the password: they would be stored, and shown.")
    if len(str(url)) > LONGEST_URL:
        raise PageError(f"Shorten it to {LONGEST_URL} characters.")
    return url


def fetch(address: str) -> Fetched:
    """The page at this address, which may be at another one by now."""
    url = checked_url(address)
    headers = {
        "Accept": ", ".join(sorted(HTML, reverse=True)),
        "Accept-Encoding": "gzip",
        "User-Agent": f"Celeriac (+{settings.PUBLIC_URL})",
    }
    # Proxies of the environment are left alone: they would be the ones to look the name up, unchecked.
    with (
        in_words(),
        httpx.Client(transport=PublicTransport(DEADLINE), trust_env=False, timeout=PATIENCE, headers=headers) as client,
    ):
        for _ in range(REDIRECTS + 1):
            with closing(client.send(client.build_request("GET", url), stream=True)) as response:
                if not response.next_request:
                    return read(response)
                url = redirected(response.next_request.url)
    raise PageError(f"It redirects more than {REDIRECTS} times.")


def redirected(url: httpx.URL) -> httpx.URL:
    try:
        return checked_url(str(url))
    except PageError:
        raise PageError("It redirects to an address that is not fetched.") from None


@contextmanager
def in_words() -> Iterator[None]:
    """What can go wrong on the way, as a sentence; and whether to try again."""
    try:
        yield
    except httpcore.TimeoutException:
        raise PassingError("It did not answer in time.") from None
    except (httpcore.NetworkError, httpcore.ProtocolError) as error:
        if any(isinstance(reason, ssl.SSLCertVerificationError) for reason in error.args):
            raise PageError("Its certificate is not valid for this name.") from None
        raise PassingError("The connection failed.") from None
    except (httpx.HTTPError, httpx.InvalidURL):
        raise PageError("It redirects to an address that is not fetched.") from None


def read(response: httpx.Response) -> Fetched:
    status = response.status_code
    if not response.is_success:
        names = {known.value: f" {known.phrase}" for known in HTTPStatus}
        error = PassingError if status >= 500 or status in BUSY else PageError
        raise error(f"The server answered {status}{names.get(status, '')}.", status)
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in HTML:
        raise PageError(f"It is {kind[:100] or 'of no known type'}, and only HTML is read.", status)
    return Fetched(str(response.url), status, (response.charset_encoding or "")[:40], unpacked(response))


def unpacked(response: httpx.Response) -> bytes:
    """The body, and the end of it as soon as it is too large: a small bomb unpacks to gigabytes.

    httpx would unpack each piece of it whole, up to 64 MB, before anybody could count.
    """
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip"}:
        raise PageError("It is packed in a way we did not ask for.", response.status_code)
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16) if "gzip" in encoding else None
    body = bytearray()
    for piece in response.iter_raw():
        try:
            body += unpacker.decompress(piece, LARGEST + 1 - len(body)) if unpacker else piece
        except zlib.error:
            raise PageError("It is packed wrongly.", response.status_code) from None
        if len(body) > LARGEST:
            raise PageError(f"It is larger than {LARGEST // 1_000_000} MB.", response.status_code)
    return bytes(body)
