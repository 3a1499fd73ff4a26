"""Serve a trained network over HTTP: a page to try it on, and a JSON API.

    abn serve                                         # checkpoint/model.safetensors, at port 8000
    abn serve --checkpoint MODEL --port 0             # any free port
    curl -H 'Content-Type: image/jpeg' --data-binary @photo.jpg http://127.0.0.1:8000/predict

Drop an image on the page: it shows what both branches say and where the network looked. Paint on
the map, and the network decides again. The API is described in /openapi.json.

Where ABN_TOKEN is set, clients send 'Authorization: Bearer TOKEN', and the page asks for it. Ctrl-C
or SIGTERM: open requests are answered first.
"""

import argparse
import errno
import ipaddress
import os
import socket
from pathlib import Path

import uvicorn

from abn.inference import predictor
from abn.inference.server.app import Settings, create
from abn.runtime.errors import BusyError, ParamsError, UserError

HELP = "answer over HTTP: a page to drop images on, and a JSON API"
NEEDS_PROJECT = False
TOKEN = "ABN_TOKEN"
SHORTEST = 16  # characters of a token
GRACE = 10  # seconds that open requests have to end when the server stops


def configure(parser: argparse.ArgumentParser) -> None:
    """The options; those of Settings have its values by default."""
    parser.description = __doc__
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    usual = Settings()
    parser.add_argument(
        "--checkpoint",
        type=Path,
        default=Path("checkpoint/model.safetensors"),
        metavar="FILE",
        help="the network (%(default)s)",
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help=f"address to listen on (%(default)s); any but this machine's own needs {TOKEN}",
    )
    parser.add_argument("--port", type=int, default=8000, help="%(default)s; 0: any free one")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; by default a GPU if there is one")
    parser.add_argument(
        "--max-bytes", type=_count, default=usual.max_bytes, help="of an image (%(default)s)"
    )
    parser.add_argument(
        "--max-pixels", type=_count, default=usual.max_pixels, help="of an image (%(default)s)"
    )
    parser.add_argument(
        "--batch", type=_count, default=usual.batch, help="images in one pass (%(default)s)"
    )


def run(options: argparse.Namespace) -> int:
    """Serve until a signal; UserError where the address, the token or the checkpoint is wrong."""
    limits = {name: getattr(options, name) for name in ("max_bytes", "max_pixels", "batch")}
    settings = Settings(token=_token(options.host), **limits)
    with _listening(options.host, options.port) as listener:
        app = create(predictor.load(options.checkpoint, options.device), settings)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=GRACE, server_header=False
        )
        host, port = listener.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        print(f"http://{host}:{port}/ answers with {options.checkpoint}; Ctrl-C stops", flush=True)
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _count(text: str) -> int:
    """A whole number from 1; ValueError, which argparse reports, for any other text."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def _token(host: str) -> str | None:
    """The token that clients have to show; ParamsError where one is needed or it is weak."""
    token = os.environ.get(TOKEN) or None
    if token is None and not _is_local(host):
        what, remedy = "others could use this server", f"set {TOKEN} to a long random text"
        raise ParamsError(what, f"--host {host}", remedy)
    if token and (len(token) < SHORTEST or not (token.isascii() and token.isprintable())):
        remedy = f"use at least {SHORTEST} letters and digits"
        raise ParamsError("a token too short, or not in ASCII", TOKEN, remedy)
    return token


def _is_local(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    """A socket at the address; UserError where it cannot be had."""
    if not 0 <= port <= 65535:
        raise ParamsError("no such port", f"--port {port}", "use 0 to 65535")
    remedy = "stop what listens there, or give another --port or --host"
    try:
        kind = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=kind, backlog=2048)
        # Its connections inherit it. Without it the second part of an answer waits 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        what = (error.strerror or str(error)).partition(" (while")[0]
        wrong = BusyError if error.errno == errno.EADDRINUSE else UserError
        raise wrong(what, f"{host}:{port}", remedy) from None
