"""A real HTTP server on the loopback that misbehaves as it is told, and a client in a hurry."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

from abn.datasets import transfer

Step = Callable[["Handler"], None]
HURRIED = {  # the constants of abn.datasets.transfer, so that no test waits for a minute
    "PAUSE": 0.001,
    "LONGEST_PAUSE": 0.05,
    "TIMEOUT": (0.5, 0.3),
    "ANSWER": 0.6,
    "WINDOW": 0.2,
}


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the next step of the server's script, then properly."""

    def do_GET(self) -> None:
        self.server.requests.append(dict(self.headers))
        script = self.server.script
        (script.pop(0) if script else self.server.otherwise)(self)

    def log_message(self, *_) -> None:
        pass

    def send(self, status: int, body: bytes = b"", length: int | None = None, **headers) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def trickle(self, block: bytes, pause: float) -> None:
        """Send `block` again and again until the client or the test has had enough."""
        while not self.server.over.wait(pause):
            self.wfile.write(block)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        """Nothing: a client that hangs up is what is wanted here."""


@contextmanager
def serving(body: bytes, **constants: object) -> Iterator[Server]:
    """A server of `body`; `script` is what it does first, `requests` the headers it was sent.

    `constants` of abn.datasets.transfer are other than HURRIED meanwhile.
    """
    server = Server(("127.0.0.1", 0), Handler)
    server.script, server.requests, server.over = [], [], threading.Event()
    server.otherwise = lambda handler: proper(handler, body)
    server.url = f"http://127.0.0.1:{server.server_port}/set.tgz"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, NO_PROXY="127.0.0.1"))
        stack.enter_context(mock.patch.multiple(transfer, **HURRIED | constants))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
            server.server_close()


def proper(handler: Handler, body: bytes, etag: str = '"1"', cut: int | None = None) -> None:
    """What an honest server does, ranges and validators included."""
    wanted = handler.headers.get("Range")
    if not wanted or handler.headers.get("If-Range", etag) != etag:
        handler.send(200, body[:cut], len(body), ETag=etag)
    elif (start := int(wanted[6:-1])) >= len(body):
        handler.send(416, Content_Range=f"bytes */{len(body)}")
    else:
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.send(206, body[start:cut], len(body) - start, ETag=etag, Content_Range=span)


def cut(body: bytes, place: int, **options) -> Step:
    """`body`, broken off at `place` as if that were its end."""
    return lambda handler: proper(handler, body, cut=place, **options)


def reset(body: bytes, place: int) -> Step:
    """`body`, ended at `place` by a TCP reset: what a crashed machine or a firewall sends."""

    def step(handler: Handler) -> None:
        proper(handler, body, cut=place)
        handler.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        handler.connection.close()

    return step


def answer(status: int, body: bytes = b"", **headers) -> Step:
    return lambda handler: handler.send(status, body, **headers)


def raw(text: bytes) -> Step:
    """`text` in place of HTTP, then the end."""
    return lambda handler: handler.wfile.write(text)


def hang(body: bytes = b"", place: int = 0) -> Step:
    """Nothing more after `place` bytes of `body`; with no body, nothing at all."""

    def step(handler: Handler) -> None:
        if body:
            proper(handler, body, cut=place)
        handler.server.over.wait(20)

    return step


def drip(head: bytes) -> Step:
    """`head`, then a byte now and then, more often than any timeout between two reads."""

    def step(handler: Handler) -> None:
        handler.wfile.write(head)
        handler.trickle(b"x", 0.05)

    return step
