"""A file by URL: whole, verified, continued, its secrets kept, from servers of every kind."""

import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from abn.datasets.download import fetch
from abn.runtime.errors import DataError, DiskError, UserError
from tests.damage import damaged
from tests.servers import Handler, Server, Step, answer, cut, hang, proper, raw, reset, serving

BODY = random.Random(0).randbytes(200_000)
OTHER = random.Random(1).randbytes(200_000)
SIZE = len(BODY)
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n"
PART = (
    b"HTTP/1.1 206 Partial Content\r\nContent-Length: 130000\r\n"
    b"Content-Range: bytes 70000-199999/200000\r\n\r\n"
)
WAITS = (
    "9" * 5000,
    "soon",
    "\xb2",
    "-1",
    "inf",
    "Fri, 99 Dec 99999 23:59:59 GMT",
    f"1 Jan {'9' * 20} 1:1:1 +{'9' * 20}",
)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(BODY) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "set.tgz"


def names(target: Path) -> set[str]:
    return {path.name for path in target.parent.glob("*")}


def is_whole(target: Path) -> bool:
    """The file is there, right, and alone."""
    return target.read_bytes() == BODY and names(target) == {"set.tgz"}


def refusal(url: str, target: Path, md5: str = MD5) -> str:
    with pytest.raises(UserError) as caught:
        fetch(url, target, md5)
    assert caught.value.line().isprintable()
    return str(caught.value)


def test_a_file_replaces_a_wrong_one_and_is_not_requested_again(
    server: Server, target: Path
) -> None:
    target.parent.mkdir()
    target.write_bytes(OTHER)
    for _ in range(2):
        assert fetch(server.url, target, MD5) == target
        assert is_whole(target)
    assert [request["Accept-Encoding"] for request in server.requests] == ["identity"]


def test_a_body_that_breaks_off_is_continued(server: Server, target: Path) -> None:
    server.script = [cut(BODY, 100_000), cut(BODY, 150_000)]
    fetch(server.url, target, MD5)
    assert is_whole(target)
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize("place", [5000, SIZE])
def test_an_earlier_part_is_continued(server: Server, target: Path, place: int) -> None:
    target.parent.mkdir()
    target.with_name("set.tgz.part").write_bytes(BODY[:place])
    fetch(server.url, target, MD5)
    assert is_whole(target)
    assert [request.get("Range") for request in server.requests] == [f"bytes={place}-"]


@pytest.mark.parametrize(
    "part", [OTHER[:1000], BODY + b"more"], ids=["of another file", "too long"]
)
def test_a_wrong_part_is_started_over_once(server: Server, target: Path, part: bytes) -> None:
    target.parent.mkdir()
    target.with_name("set.tgz.part").write_bytes(part)
    fetch(server.url, target, MD5)
    assert is_whole(target)
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [f"bytes={len(part)}-", None]


def shorter(handler: Handler) -> None:
    """Less of the range than was asked for."""
    start = int(handler.headers["Range"][6:-1])
    span = f"bytes {start}-{start + 999}/{SIZE}"
    handler.send(206, BODY[start : start + 1000], Content_Range=span)


RECOVERING: dict[str, list[Step]] = {
    "cut four times": [cut(BODY, place) for place in (0, 1000, 1001, SIZE - 1)],
    "reset in the body": [reset(BODY, 70_000)],
    "hangs in the body": [hang(BODY, 70_000)],
    "chunked body cut": [raw(CHUNKED + b"400\r\n" + BODY[:500])],
    "closed without an answer": [raw(b"")],
    "not HTTP": [raw(b"SSH-2.0-OpenSSH_9.6\r\n")],
    "header without an end": [raw(HEAD + b"X: " + b"x" * 100_000)],
    "busy, asks to wait for hours": [answer(503, Retry_After="9999"), answer(429)],
    "no ranges": [cut(BODY, 70_000), answer(200, BODY)],
    "another range than asked for": [
        cut(BODY, 70_000),
        answer(206, BODY[7:], Content_Range=f"bytes 7-{SIZE - 1}/{SIZE}"),
    ],
    "less of the range than asked for": [cut(BODY, 70_000), shorter],
    "the file changes in between": [cut(OTHER, 70_000)],
    "labels the bytes compressed": [answer(200, BODY, Content_Encoding="gzip")],
    "redirected": [answer(302, Location="/elsewhere")],
    "length in no digits": [raw(b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n" + BODY)],
    "length of 5000 digits": [raw(HEAD.replace(b"200000", b"9" * 5000) + b"\r\n" + BODY)],
    "range in no digits": [
        cut(BODY, 70_000),
        raw(PART.replace(b"70000-199999/200000", b"\xb2-*/\xb2") + BODY[70_000:]),
    ],
    "range of 5000 digits": [
        cut(BODY, 70_000),
        raw(PART.replace(b"/200000", b"/" + b"9" * 5000) + BODY[70_000:]),
    ],
    "chunk of 5000 digits": [raw(CHUNKED + b"f" * 5000 + b"\r\nabc")],
    **{f"busy, asks to wait {text[:20]}": [answer(503, Retry_After=text)] * 4 for text in WAITS},
}


@pytest.mark.parametrize("kind", RECOVERING)
def test_a_server_that_recovers_delivers_the_file(
    server: Server, target: Path, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    server.script = [*RECOVERING[kind]]
    fetch(server.url, target, MD5)
    assert is_whole(target)
    said = capfd.readouterr().err.count("is busy or does not answer; trying again")
    assert said == len(RECOVERING[kind]) or not kind.startswith("busy")
    assert not server.script and len(server.requests) >= len(RECOVERING[kind])


PAGE = b"<html>log in to the network</html>"
FAILING: dict[str, tuple[list[Step], str]] = {
    "cut every time": ([cut(BODY, place) for place in range(5)], "the download broke off ("),
    "hangs every time": ([hang()] * 5, "no usable answer (ConnectionError)"),
    "busy every time": ([answer(503)] * 5, "HTTP 503 Service Unavailable"),
    "redirected to half an address": ([answer(302, Location="http://[foo/")], "(ValueError)"),
    "redirected to no port": ([answer(302, Location="http://h:999999/")], "(ValueError)"),
    "two lengths": ([raw(HEAD + b"Content-Length: 7\r\n\r\n")], "(InvalidHeader)"),
    "a negative chunk": ([raw(CHUNKED + b"-5\r\nabc")], "(ValueError)"),
    "missing": ([answer(404)], "HTTP 404 Not Found"),
    "circle of redirects": ([answer(302, Location="/")] * 40, "(TooManyRedirects)"),
    "redirected to a file": ([answer(302, Location="file:///etc/passwd")], "(InvalidSchema)"),
    "a page in place of the file": ([answer(200, PAGE)], f"({len(PAGE)} bytes), not {MD5}"),
    "a length that is too short": ([answer(200, BODY, length=10)], f"(10 bytes), not {MD5}"),
    "a length beyond all disks": ([answer(200, BODY, length=10**18)], "bytes are needed"),
    "one other byte": ([answer(200, BODY[:-1] + b"x")], f"(200000 bytes), not {MD5}"),
}


@pytest.mark.parametrize("kind", FAILING)
def test_a_server_that_fails_is_one_line_and_the_next_call_succeeds(
    server: Server, target: Path, kind: str
) -> None:
    script, words = FAILING[kind]
    server.script = [*script]
    message = refusal(server.url, target)
    assert (words in message and server.url in message) or "free" in message, message
    assert names(target) <= {"set.tgz.part"}
    server.script = []
    fetch(server.url, target, MD5)
    assert is_whole(target)


def test_damaged_answers_never_end_in_a_traceback(server: Server, target: Path) -> None:
    headers = b"Location: /x\r\nSet-Cookie: a=b\r\nRetry-After: 1\r\nContent-Range: bytes 0-9/10"
    for seed in range(60):
        draws = random.Random(seed)
        status = draws.choice([b"200 OK", b"206 Partial", b"302 Found", b"416 Range", b"503 Busy"])
        head = HEAD.replace(b"200 OK", status) + headers + b"\r\n\r\n"
        server.script = [raw(damaged(head, draws) + BODY[:100])] * draws.randint(1, 5)
        try:
            fetch(server.url, target, MD5)
        except UserError as error:
            assert error.line().isprintable()
        target.unlink(missing_ok=True)
        target.with_name("set.tgz.part").unlink(missing_ok=True)


def test_a_wrong_md5_is_shown_in_full_and_nothing_is_kept(server: Server, target: Path) -> None:
    wrong = "0" * 32
    message = refusal(server.url, target, wrong)
    assert message == (
        f"md5 is {MD5} (200000 bytes), not {wrong}; {server.url}; correct data.url or data.md5"
    )
    assert names(target) == set() and len(server.requests) == 1


def test_four_at_once_make_one_request(server: Server, target: Path) -> None:
    def slow(handler: Handler) -> None:
        time.sleep(0.2)  # long enough for the others to ask, if they did not wait
        proper(handler, BODY)

    server.script = [slow]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(server.url, target, MD5), range(4)))
    assert is_whole(target) and len(server.requests) == 1


FETCH = """
import sys
from pathlib import Path
from abn.datasets.download import fetch
fetch(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
"""


def test_a_killed_download_is_continued(server: Server, target: Path) -> None:
    server.script = [hang(BODY, 70_000)]
    command = [sys.executable, "-c", FETCH, server.url, str(target), MD5]
    victim = subprocess.Popen(command, env=os.environ, stderr=subprocess.DEVNULL)
    part = target.with_name("set.tgz.part")
    while not part.exists() or part.stat().st_size < 1 << 16:
        assert victim.poll() is None
        time.sleep(0.01)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert names(target) == {"set.tgz.lock", "set.tgz.part"}
    fetch(server.url, target, MD5)
    assert is_whole(target)
    assert server.requests[-1]["Range"] == f"bytes={1 << 16}-"


def test_room_is_checked_before_the_body_is_fetched(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target.parent.mkdir()
    target.with_name("set.tgz.part").write_bytes(BODY[:1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=198_999))
    with pytest.raises(DiskError, match="199,000 bytes are needed, 198,999 are free"):
        fetch(server.url, target, MD5)
    assert target.with_name("set.tgz.part").read_bytes() == BODY[:1000]


def test_a_full_disk_is_one_line_and_the_download_goes_on_from_there(
    server: Server, target: Path
) -> None:
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, former[1]))
    try:
        assert refusal(server.url, target).startswith("cannot be written: File too large; ")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    fetch(server.url, target, MD5)
    assert is_whole(target) and server.requests[1]["Range"] == "bytes=100000-"


def test_a_place_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskError, match=r"cannot be written: .*set\.tgz; make room"):
        fetch(server.url, tmp_path / "file" / "set.tgz", MD5)


def test_a_secret_in_a_url_is_never_shown(
    server: Server, target: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = server.url.replace("://", "://user:p@ss/w?rd@") + "?token=t0ken#t0ken"
    for url in (secret, secret.replace("@ss/w?rd", ""), secret.replace("http:", "ftp:")):
        server.script = [cut(BODY, 1000)]
        message = refusal(url, target, "0" * 32) + "".join(capfd.readouterr())
        assert "://***@127.0.0.1" in message and "set.tgz" in message
        assert not any(part in message for part in ("user", "p@ss", "rd@", "t0ken"))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_file_is_verified_where_it_is(tmp_path: Path, target: Path, scheme: str) -> None:
    path = tmp_path / "here#1.tgz"
    path.write_bytes(BODY)
    url = path.as_uri() if scheme else str(path)
    assert fetch(url, target, MD5) == path
    with pytest.raises(DataError, match=r"md5 is .*here#1\.tgz"):
        fetch(url, target, "0" * 32)
    assert path.exists() and not target.parent.exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("absent.tgz", "no such file; absent.tgz; correct data.url"),
        ("file:///absent.tgz", "no such file; /absent.tgz; correct data.url"),
        ("s3://bucket/x", "not http(s)://, file:// or a path; s3://bucket/x; correct data.url"),
        ("http://", "no usable answer (InvalidURL); http://; check data.url"),
        ("http://[", "no usable answer (InvalidURL); http://[; check data.url"),
        ("http://host:port/x", "no usable answer (InvalidURL); http://host:port/x; check"),
    ],
)
def test_an_unusable_url_is_refused(target: Path, url: str, words: str) -> None:
    assert refusal(url, target).startswith(words)
