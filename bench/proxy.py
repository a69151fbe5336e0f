"""A TCP proxy that delays each direction, so that Redis is as far away as it is in another zone.

``delayed(port)`` runs one beside the benchmark; order and throughput stay as they are.
"""

import asyncio
import selectors
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds in each direction: 2 ms there and back.
DELAY = 0.001


@contextmanager
def delayed(port: int) -> Iterator[int]:
    """A proxy to this port of the loopback interface, in a process of its own; yields the proxy's port."""
    command = [sys.executable, "-m", "bench.proxy", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield int(process.stdout.readline())
        finally:
            process.terminate()


class Side(asyncio.Protocol):
    """One of a connection's two ends; what it receives, the other one sends after the delay."""

    def __init__(self) -> None:
        self.other: Side | None = None
        self.transport: asyncio.Transport | None = None
        #: Received, and not sent by the other side yet; None is the end.
        self.waiting: deque[bytes | None] = deque()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.later(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.later(None)

    def later(self, data: bytes | None) -> None:
        # Through a queue: two timers of the same moment may fire in any order.
        self.waiting.append(data)
        asyncio.get_running_loop().call_later(DELAY, self.deliver)

    def deliver(self) -> None:
        data = self.waiting.popleft()
        if not self.other or not self.other.transport:
            return
        if data is None:
            self.other.transport.close()
        else:
            self.other.transport.write(data)


class Entrance(Side):
    """The end that a client connected to."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport
        self.transport.pause_reading()
        self.connecting = asyncio.create_task(self.connect())

    async def connect(self) -> None:
        exit_ = Side()
        exit_.other, self.other = self, exit_
        assert self.transport
        try:
            await asyncio.get_running_loop().create_connection(lambda: exit_, "127.0.0.1", self.port)
        except OSError:
            self.transport.close()
        else:
            self.transport.resume_reading()


async def serve(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(lambda: Entrance(port), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    # epoll waits whole milliseconds, and 1 ms would be up to 2; select does not round.
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        runner.run(serve(int(sys.argv[1])))
