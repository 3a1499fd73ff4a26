"""A real HTTP server on the loopback that misbehaves as its script says."""

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

from urllib3.util import Retry

from abn.datasets import download

Step = Callable[["Handler"], None]
# Of abn.datasets.download, so that no test waits for seconds.
QUICK = {"BACKOFF": 0.001, "TIMEOUT": (0.5, 0.5)}
QUICK_RETRY = {"backoff_factor": 0.001, "retry_after_max": 0.05}


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


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        """Nothing: a client that hangs up is expected here."""


@contextmanager
def serving(body: bytes) -> Iterator[Server]:
    """A server of `body`; `script` is what it does first, `requests` the headers it received."""
    server = Server(("127.0.0.1", 0), Handler)
    server.script, server.requests, server.over = [], [], threading.Event()
    server.otherwise = lambda handler: proper(handler, body)
    server.url = f"http://127.0.0.1:{server.server_port}/set.tgz"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    retry: Retry = download.RETRY.new(**QUICK_RETRY)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, NO_PROXY="127.0.0.1"))
        stack.enter_context(mock.patch.multiple(download, RETRY=retry, **QUICK))
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
            server.server_close()


def proper(handler: Handler, body: bytes, cut: int | None = None) -> None:
    """What an honest server does, ranges included."""
    wanted = handler.headers.get("Range")
    if not wanted:
        handler.send(200, body[:cut], len(body))
    elif (start := int(wanted[6:-1])) >= len(body):
        handler.send(416, Content_Range=f"bytes */{len(body)}")
    else:
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.send(206, body[start:cut], len(body) - start, Content_Range=span)


def cut(body: bytes, place: int) -> Step:
    """`body`, broken off at `place` as if that were its end."""
    return lambda handler: proper(handler, body, cut=place)


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
