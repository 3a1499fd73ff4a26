"""Servers that cut, hang, drip, lie and refuse: the file arrives whole, or one error tells why."""

import hashlib
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from abn.datasets.fetch import fetch

from abn.runtime.errors import DataError
from tests.faults import Outcome, kind
from tests.servers import (
    Handler,
    Server,
    Step,
    answer,
    cut,
    drip,
    hang,
    proper,
    raw,
    reset,
    serving,
)

BODY = random.Random(0).randbytes(200_000)
OTHER = random.Random(1).randbytes(200_000)
FLIPPED = BODY[:777] + bytes([BODY[777] ^ 1]) + BODY[778:]
SIZE = len(BODY)
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
LONGEST = 10.0  # seconds; with the constants of tests.servers.HURRIED all must be over long before
PAGE = b"<html>log in to the network</html>"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

Script = Callable[[random.Random], list[Step]]


def get(server: Server, folder: Path, size: int | None = SIZE) -> Path:
    return fetch(server.url, folder / "cache" / "set.tgz", MD5, size)


def left(folder: Path) -> set[str]:
    return {path.name for path in (folder / "cache").iterdir()}


def whole(folder: Path) -> None:
    """The file is there, right, and alone."""
    assert left(folder) == {"set.tgz"}
    assert (folder / "cache" / "set.tgz").read_bytes() == BODY


def mended(script: Script, folder: Path, draws: random.Random) -> Outcome:
    """The server recovers, and one call brings the file."""
    with serving(BODY) as server:
        server.script = script(draws)
        start, planned = time.monotonic(), len(server.script)
        get(server, folder)
        seconds = time.monotonic() - start
        whole(folder)
        assert not server.script and len(server.requests) >= planned, "the fault did not arrive"
    assert seconds < LONGEST
    return Outcome("the same bytes", seconds=seconds)


def refused(
    script: Script,
    words: str,
    folder: Path,
    draws: random.Random,
    size: int | None = SIZE,
    **constants: object,
) -> Outcome:
    """One error says why; once the server is honest, the same call brings the file."""
    with serving(BODY, **constants) as server:
        server.script = script(draws)
        start = time.monotonic()
        try:
            get(server, folder, size)
            raise AssertionError("no error")
        except DataError as error:
            assert re.search(words, error.line()) and "\n" not in error.line(), error.line()
        seconds = time.monotonic() - start
        assert left(folder) <= {"set.tgz.part"}
        server.script = []
        get(server, folder, size)
        whole(folder)
    assert seconds < LONGEST
    return Outcome("error[DATA], then the same bytes", seconds=seconds)


def place(draws: random.Random) -> int:
    return draws.randrange(1, SIZE)


def anew(handler: Handler) -> None:
    """All of it, whatever range was asked for."""
    handler.send(200, BODY)


def elsewhere(handler: Handler) -> None:
    handler.send(206, BODY[7:], Content_Range=f"bytes 7-{SIZE - 1}/{SIZE}")


def shorter(handler: Handler) -> None:
    start = int(handler.headers["Range"][6:-1])
    end = min(start + 1000, SIZE)
    span = f"bytes {start}-{end - 1}/{SIZE}"
    handler.send(206, BODY[start:end], Content_Range=span)


def endless(handler: Handler) -> None:
    handler.wfile.write(CHUNKED)
    handler.trickle(b"10000\r\n" + bytes(0x10000) + b"\r\n", 0.0001)


MENDED: dict[str, Script] = {
    "body cut": lambda d: [cut(BODY, place(d))],
    "body cut before its first byte": lambda d: [cut(BODY, 0)],
    "body cut before its last byte": lambda d: [cut(BODY, SIZE - 1)],
    "body cut four times": lambda d: [cut(BODY, p) for p in sorted(d.sample(range(SIZE), 4))],
    "connection reset in the body": lambda d: [reset(BODY, place(d))],
    "chunked body cut": lambda d: [raw(CHUNKED + b"400\r\n" + BODY[: 0x400 // 2])],
    "closed without an answer": lambda d: [raw(b"")],
    "not HTTP": lambda d: [raw(b"SSH-2.0-OpenSSH_9.6\r\n")],
    "header without an end": lambda d: [raw(HEAD + b"X: " + b"x" * 100_000)],
    "hangs before the answer": lambda d: [hang()],
    "hangs in the body": lambda d: [hang(BODY, place(d))],
    "drips the header": lambda d: [drip(HEAD + b"X: ")],
    "drips the body": lambda d: [drip(HEAD + b"\r\n")],
    "busy, asks to wait for hours": lambda d: [answer(503, Retry_After="9999")],
    "busy, asks to wait for nonsense": lambda d: [answer(429, Retry_After="soon")],
    "no ranges": lambda d: [cut(BODY, place(d)), anew],
    "another range than asked for": lambda d: [cut(BODY, place(d)), elsewhere],
    "less of the range than asked for": lambda d: [cut(BODY, d.randrange(SIZE // 2)), shorter],
    "changes in between, new ETag": lambda d: [cut(OTHER, place(d), etag='"0"')],
    "changes in between, no ETag": lambda d: [answer(200, OTHER[: place(d)], length=SIZE)],
    "labels the bytes compressed": lambda d: [answer(200, BODY, Content_Encoding="gzip")],
    "redirected": lambda d: [answer(302, Location="/elsewhere")],
}
for name, script in MENDED.items():
    kind("downloads", name)(partial(mended, script))


REFUSED: dict[str, tuple[Script, str]] = {
    "cut every time": (
        lambda d: [cut(BODY, p) for p in sorted(d.sample(range(SIZE), 5))],
        r"no complete answer \(\w+\), 5 times; http.*set\.tgz; check the network",
    ),
    "hangs every time": (lambda d: [hang()] * 5, r"no complete answer \(ReadTimeout\), 5 times"),
    "busy every time": (lambda d: [answer(503)] * 5, "HTTP 503, 5 times"),
    "missing": (lambda d: [answer(404)], "HTTP 404 Not Found; http.*; correct data.url"),
    "forbidden": (lambda d: [answer(403)], "HTTP 403 Forbidden; http.*; correct data.url"),
    "circle of redirects": (lambda d: [answer(302, Location="/")] * 6, "TooManyRedirects"),
    "redirected to another scheme": (
        lambda d: [answer(302, Location="file:///etc/passwd")],
        r"not a usable URL.*InvalidSchema",
    ),
    "a page in place of the file": (
        lambda d: [answer(200, PAGE)],
        f"{len(PAGE)} bytes where the file has 200,000; http",
    ),
    "endless body": (lambda d: [endless], "more bytes where the file has 200,000"),
    "one byte of the file is another": (
        lambda d: [answer(200, FLIPPED)],
        f"expected md5 {MD5}, found [0-9a-f]+ in 200000 bytes",
    ),
}
for name, (script, words) in REFUSED.items():
    kind("downloads", name)(partial(refused, script, words))

DRIPPING: dict[str, tuple[Script, str]] = {
    "drips every time": (lambda d: [drip(HEAD + b"\r\n")] * 5, "bytes came in .*, 5 times"),
    "drips the header every time": (lambda d: [drip(HEAD + b"X: ")] * 5, "no answer within .* 5 t"),
}
PATIENT = (0.5, 5.0)  # so that on a busy machine a late drop is not taken for a silence
for name, (script, words) in DRIPPING.items():
    kind("downloads", name)(partial(refused, script, words, TIMEOUT=PATIENT))


@kind("downloads", "a page in place of a file of unknown size")
def page(folder: Path, draws: random.Random) -> Outcome:
    return refused(lambda _: [answer(200, PAGE)], f"in {len(PAGE)} bytes", folder, draws, None)


@kind("downloads", "nobody at the port")
def closed(folder: Path, draws: random.Random) -> Outcome:
    with serving(BODY) as server:
        pass
    start = time.monotonic()
    try:
        with serving(BODY):
            get(server, folder)
    except DataError as error:
        assert re.search(r"no complete answer \(Conn\w+\), 5 times", str(error)), error
        return Outcome("error[DATA]", seconds=time.monotonic() - start)
    raise AssertionError("no error")


@kind("downloads", "a part longer than the file is there")
def overlong(folder: Path, draws: random.Random) -> Outcome:
    (folder / "cache").mkdir()
    (folder / "cache" / "set.tgz.part").write_bytes(BODY + b"more")
    return mended(lambda _: [], folder, draws)


@kind("downloads", "a part of another file is there")
def foreign(folder: Path, draws: random.Random) -> Outcome:
    (folder / "cache").mkdir()
    (folder / "cache" / "set.tgz.part").write_bytes(OTHER[: place(draws)])
    return mended(lambda _: [], folder, draws)


@kind("downloads", "four at once")
def four(folder: Path, draws: random.Random) -> Outcome:
    def slow(handler: Handler) -> None:
        time.sleep(0.2)  # long enough for the others to ask, were they not made to wait
        proper(handler, BODY)

    with serving(BODY) as server, ThreadPoolExecutor(4) as pool:
        server.script = [slow]
        start = time.monotonic()
        list(pool.map(lambda _: get(server, folder), range(4)))
        seconds = time.monotonic() - start
        assert len(server.requests) == 1
    whole(folder)
    return Outcome("one request, the same bytes", seconds=seconds)
