"""Connections to public addresses only: what stands between a visitor's URL and our own network (SSRF)."""

import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from functools import cache
from ipaddress import IPv4Address, ip_address, ip_network

import httpcore
import httpx
from django.conf import settings

from demos.pages.errors import PageError, PassingError

PORTS = {80, 443}

#: IPv6 hands out addresses of this block alone; whatever else is routed somewhere is somebody's own business.
UNICAST = ip_network("2000::/3")
#: How a network without IPv4 reaches it: the address is in the last four bytes.
NAT64 = ip_network("64:ff9b::/96")
#: Global to Python's tables (of some versions), yet they lead to a cloud's own services or hide another address.
NEVER = [
    ip_network("168.63.129.16/32"),  # Azure's host
    ip_network("192.0.0.0/24"),  # with Oracle Cloud's metadata
    ip_network("192.88.99.0/24"),  # 6to4's relays
    ip_network("2001::/23"),  # with Teredo
    ip_network("2002::/16"),  # 6to4
]


def is_public(address: str) -> bool:
    ip = ip_address(address)
    if ip.version == 6:
        if ip.ipv4_mapped:
            ip = ip.ipv4_mapped
        elif ip in NAT64:
            ip = IPv4Address(ip.packed[-4:])
        elif ip not in UNICAST:
            return False
    return ip.is_global and not ip.is_multicast and not any(ip in network for network in NEVER)


def checked_addresses(host: str, port: int) -> list[str]:
    """All addresses of the host, if we may talk to every one of them; one bad one is enough to refuse it."""
    # The same words for a name that does not exist: a visitor is not to learn which names our network has.
    refused = PageError(f"{host} has no public address; nothing is fetched from any other.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        if error.errno == socket.EAI_AGAIN:
            raise PassingError(f"The address of {host} could not be looked up.") from None
        raise refused from None
    except UnicodeError:  # a label of more than 63 characters
        raise refused from None
    allowed = set(getattr(settings, "PAGES_ALLOWED_ADDRESSES", []))
    addresses = list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))
    for address in addresses:
        if {f"{host}:{port}", f"{address}:{port}"} & allowed:
            continue
        if not is_public(address):
            raise refused
        if port not in PORTS:
            raise PageError(f"Pages are fetched from the ports 80 and 443 only, not from {port}.")
    return addresses


class Deadline:
    """The end of one whole fetch: a server that sends a byte now and then keeps every shorter timeout."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def cut(self, timeout: float | None) -> float:
        left = self.at - time.monotonic()
        if left <= 0:
            raise httpcore.ReadTimeout("the deadline has passed")
        return left if timeout is None else min(left, timeout)


class DeadlineStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, deadline: Deadline) -> None:
        self.stream, self.deadline = stream, deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self.stream.read(max_bytes, self.deadline.cut(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.stream.write(buffer, self.deadline.cut(timeout))

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        stream = self.stream.start_tls(ssl_context, server_hostname, self.deadline.cut(timeout))
        return DeadlineStream(stream, self.deadline)

    def close(self) -> None:
        self.stream.close()

    def get_extra_info(self, info: str) -> object:
        return self.stream.get_extra_info(info)


class PublicBackend(httpcore.NetworkBackend):
    """Looks a host up once, checks the answer, and connects to exactly that: what its name server says a
    moment later does not matter. TLS and the Host header keep the name, which is not touched."""

    def __init__(self, deadline: Deadline) -> None:
        self.tcp, self.deadline = httpcore.SyncBackend(), deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        failure: Exception = httpcore.ConnectError("no address")
        for address in checked_addresses(host, port):
            try:
                stream = self.tcp.connect_tcp(address, port, self.deadline.cut(timeout), local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                return DeadlineStream(stream, self.deadline)
        raise failure


@cache
def tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


class PublicTransport(httpx.BaseTransport):
    """httpx over that backend. ``httpx.HTTPTransport`` takes none (httpx#3749), and a private attribute set
    from outside would, renamed one day, switch the checks off without a word."""

    def __init__(self, seconds: float) -> None:
        self.pool = httpcore.ConnectionPool(
            ssl_context=tls(),
            max_keepalive_connections=0,  # each redirect is looked up and checked anew
            network_backend=PublicBackend(Deadline(seconds)),
        )

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        url = request.url
        answer = self.pool.handle_request(
            httpcore.Request(
                method=request.method,
                url=httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                headers=request.headers.raw,
                extensions=request.extensions,
            )
        )
        return httpx.Response(answer.status, headers=answer.headers, stream=AnswerStream(answer))

    def close(self) -> None:
        self.pool.close()


class AnswerStream(httpx.SyncByteStream):
    def __init__(self, answer: httpcore.Response) -> None:
        self.answer = answer

    def __iter__(self) -> Iterator[bytes]:
        yield from self.answer.iter_stream()

    def close(self) -> None:
        self.answer.close()
