"""What ``wrk -t 1 -c CONNECTIONS -d SECONDS -H "Connection: close" URL`` does, for machines without it; and slower."""

import argparse
import asyncio
import time
from urllib.parse import urlsplit


async def main(url: str, connections: int, seconds: float, header: str) -> None:
    address = urlsplit(url)
    assert address.hostname
    request = f"GET {address.path} HTTP/1.1\r\nHost: {address.netloc}\r\n{header}\r\n\r\n".encode()
    until = time.monotonic() + seconds
    counts = await asyncio.gather(
        *(asking(address.hostname, address.port or 80, request, until) for _ in range(connections))
    )
    if errors := sum(refused for _, refused in counts):
        print(f"Non-2xx or 3xx responses: {errors}")
    print(f"Requests/sec: {sum(done for done, _ in counts) / seconds:.2f}")


async def asking(host: str, port: int, request: bytes, until: float) -> tuple[int, int]:
    """One request after the other; how many were answered, and how many of them with an error."""
    done = refused = 0
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(request)
        answer = await reader.read()  # until the server closes
        writer.close()
        done += 1
        refused += answer.split()[1][:1] not in b"23"
    return done, refused


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.client", description=__doc__)
    parser.add_argument("url")
    parser.add_argument("-t", metavar="THREADS", help="for wrk; here it is always one")
    parser.add_argument("-c", dest="connections", type=int, required=True)
    parser.add_argument("-d", dest="seconds", type=lambda text: float(text.rstrip("s")), required=True)
    parser.add_argument("-H", dest="header", choices=["Connection: close"], required=True)
    asked = parser.parse_args()
    asyncio.run(main(asked.url, asked.connections, asked.seconds, asked.header))
