"""Downloading from a real server that misbehaves."""

import hashlib
import io
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from abn.datasets import fetch as module
from abn.datasets.fetch import fetch
from abn.errors import UserError

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers each request with the next step of the server's script, then properly."""

    def do_GET(self):
        self.server.requests.append(dict(self.headers))
        script = self.server.script
        (script.pop(0) if script else proper)(self)

    def log_message(self, *_):
        pass

    def send(self, status: int, body: bytes = b"", length: int | None = None, **headers: str):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


def proper(handler, body=BODY, etag='"1"', cut=None):
    """What an honest server does, ranges and validators included."""
    wanted = handler.headers.get("Range")
    if not wanted or handler.headers.get("If-Range", etag) != etag:
        handler.send(200, body[:cut], len(body), ETag=etag)
    elif (start := int(wanted[6:-1])) >= len(body):
        handler.send(416, Content_Range=f"bytes */{len(body)}")
    else:
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        handler.send(206, body[start:cut], len(body) - start, ETag=etag, Content_Range=span)


def cut(place, **options):
    return lambda handler: proper(handler, cut=place, **options)


def answer(status, body=b"", **headers):
    return lambda handler: handler.send(status, body, **headers)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "PAUSE", 0.001)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.script, server.requests = [], []
    server.url = f"http://127.0.0.1:{server.server_port}/set.tgz"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "set.tgz"


def leftovers(target):
    return {path.name for path in target.parent.glob("*") if path.suffix != ".lock"}


def test_a_file_arrives_whole_and_leaves_nothing_else(server, target):
    assert fetch(server.url, target, md5(BODY)) == target
    assert target.read_bytes() == BODY
    assert leftovers(target) == {"set.tgz"}


def test_a_file_that_is_there_is_not_requested(server, target):
    target.parent.mkdir()
    target.write_bytes(BODY)
    assert fetch(server.url, target, md5(BODY)) == target
    assert server.requests == []


def test_a_file_that_is_there_but_wrong_is_replaced(server, target):
    target.parent.mkdir()
    target.write_bytes(OTHER)
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY


def test_a_cut_body_is_resumed_with_a_range_request(server, target):
    server.script = [cut(100_000), cut(200_000)]
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [
        None,
        "bytes=100000-",
        "bytes=200000-",
    ]
    assert server.requests[1]["If-Range"] == '"1"'


def test_a_body_cut_anywhere_is_completed(server, target):
    for place in [0, 1, *random.Random(2).sample(range(len(BODY)), 10), len(BODY) - 1]:
        target.unlink(missing_ok=True)
        server.script = [cut(place)]
        fetch(server.url, target, md5(BODY))
        assert target.read_bytes() == BODY


def test_a_server_without_ranges_is_asked_for_everything_again(server, target):
    server.script = [answer(200, BODY[:1000], length=len(BODY)), answer(200, BODY)]
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY


def test_a_file_that_changes_in_between_is_started_over(server, target):
    server.script = [cut(1000, body=OTHER, etag='"0"')]
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY
    assert len(server.requests) == 2


def test_pieces_of_two_files_without_etags_are_started_over(server, target):
    server.script = [answer(200, OTHER[:1000], length=len(OTHER))]
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [None, "bytes=1000-", None]


def test_a_part_from_an_earlier_run_is_used(server, target):
    target.parent.mkdir()
    target.with_name("set.tgz.part").write_bytes(BODY[:5000])
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == ["bytes=5000-"]


PARTS = {"whole": (BODY, 1), "other": (OTHER, 2), "longer": (BODY + b"more", 2)}


@pytest.mark.parametrize(("part", "requested"), PARTS.values(), ids=PARTS)
def test_a_part_that_lacks_nothing_is_verified_or_started_over(server, target, part, requested):
    target.parent.mkdir()
    target.with_name("set.tgz.part").write_bytes(part)
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY
    assert len(server.requests) == requested
    assert leftovers(target) == {"set.tgz"}


def test_a_range_that_was_not_asked_for_is_not_appended(server, target):
    wrong = answer(206, BODY[7:], Content_Range=f"bytes 7-{len(BODY) - 1}/{len(BODY)}")
    server.script = [cut(1000), wrong]
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY
    assert len(server.requests) == 3


def test_a_range_shorter_than_asked_for_is_continued(server, target):
    short = answer(206, BODY[1000:2000], Content_Range=f"bytes 1000-1999/{len(BODY)}")
    server.script = [cut(1000), short]
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY
    assert server.requests[2]["Range"] == "bytes=2000-"


def test_the_bytes_are_stored_as_sent_even_if_labelled_compressed(server, target):
    server.script = [answer(200, BODY, Content_Encoding="gzip")]
    fetch(server.url, target, md5(BODY))
    assert server.requests[0]["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_server_is_asked_again(server, target, status):
    server.script = [answer(status), answer(status)]
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY
    assert len(server.requests) == 3


@pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("9999", 60), ("0", 0.001)])
def test_the_server_says_how_long_to_wait_within_reason(server, target, monkeypatch, asked, waited):
    pauses = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    server.script = [answer(503, Retry_After=asked)]
    fetch(server.url, target, md5(BODY))
    assert pauses == [waited]


def test_a_server_that_never_recovers_is_given_up_and_the_part_kept(server, target):
    server.script = [cut(1000)] + [answer(503)] * 4
    with pytest.raises(UserError, match=r"HTTP 503, 5 times; .*set\.tgz; check the network"):
        fetch(server.url, target, md5(BODY))
    assert leftovers(target) == {"set.tgz.part"}


def test_a_missing_file_is_not_asked_for_twice(server, target):
    server.script = [answer(404)]
    with pytest.raises(UserError, match=r"HTTP 404 Not Found; .*set\.tgz; correct data\.url"):
        fetch(server.url, target, md5(BODY))
    assert len(server.requests) == 1


def test_a_wrong_md5_is_told_in_full_and_nothing_is_kept(server, target):
    with pytest.raises(UserError) as refusal:
        fetch(server.url, target, md5(OTHER))
    message = str(refusal.value)
    for part in (server.url, md5(OTHER), md5(BODY), "300000 bytes", "data.url or data.md5"):
        assert part in message
    assert leftovers(target) == set()
    assert len(server.requests) == 1


def test_a_page_instead_of_the_file_is_a_wrong_md5(server, target):
    server.script = [answer(200, b"<html>log in</html>")]
    with pytest.raises(UserError, match="in 19 bytes"):
        fetch(server.url, target, md5(BODY))


def test_four_at_once_download_once(server, target):
    def slow(handler):
        time.sleep(0.2)  # long enough for the others to ask, were they not made to wait
        proper(handler)

    server.script = [slow]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(server.url, target, md5(BODY)), range(4)))
    assert target.read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_redirect_is_followed(server, target):
    server.script = [answer(302, Location="/elsewhere")]
    fetch(server.url, target, md5(BODY))
    assert len(server.requests) == 2


def test_a_circle_of_redirects_is_refused(server, target):
    server.script = [answer(302, Location="/set.tgz")] * 20
    with pytest.raises(UserError, match="TooManyRedirects"):
        fetch(server.url, target, md5(BODY))
    assert len(server.requests) == 6


def test_https_is_never_left_for_http(server, target, monkeypatch):
    class Secure(requests.adapters.HTTPAdapter):
        def send(self, request, **_):
            response = requests.Response()
            response.status_code, response.request, response.url = 302, request, request.url
            response.headers["Location"] = server.url
            response.raw = io.BytesIO()
            return response

    session = module._session("https://example.org/set.tgz")
    session.mount("https://", Secure())
    monkeypatch.setattr(module, "_session", lambda _: session)
    with pytest.raises(UserError, match="from https to http"):
        fetch("https://example.org/set.tgz", target, md5(BODY))
    assert server.requests == []


def test_a_secret_in_a_url_is_never_shown(server, target, capfd):
    secret = server.url.replace("://", "://user:p@ss/w?rd@") + "?token=t0ken#t0ken"
    for url in (secret, secret.replace("@ss/w?rd", ""), secret.replace("http:", "ftp:")):
        with pytest.raises(UserError) as refusal:
            fetch(url, target, md5(OTHER))
        shown = str(refusal.value) + "".join(capfd.readouterr())
        assert "://***@127.0.0.1" in shown
        assert "set.tgz" in shown
        assert not any(part in shown for part in ("user", "p@ss", "rd@", "t0ken"))


def test_a_server_that_is_not_there_is_named(server, target):
    url = "http://127.0.0.1:9/set.tgz"
    with pytest.raises(UserError, match=r"no complete answer \(Conn.*127\.0\.0\.1:9/set\.tgz"):
        fetch(url, target, md5(BODY))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_local_file_is_verified_where_it_is(tmp_path, target, scheme):
    path = tmp_path / "here#1.tgz"
    path.write_bytes(BODY)
    url = path.as_uri() if scheme else str(path)
    assert fetch(url, target, md5(BODY)) == path
    assert not target.parent.exists()
    with pytest.raises(UserError, match=r"expected md5 .*here#1\.tgz"):
        fetch(url, target, md5(OTHER))


@pytest.mark.parametrize("url", ["absent.tgz", "file:///absent.tgz"])
def test_a_missing_local_file_is_named(target, url):
    with pytest.raises(UserError, match=r"no such file; .*absent\.tgz; set data\.url"):
        fetch(url, target, md5(BODY))


@pytest.mark.parametrize("url", ["http://", "http://[", "http://host:port/x", "s3://bucket/x"])
def test_an_unusable_url_is_refused(target, url):
    with pytest.raises(UserError, match=r"correct data\.url"):
        fetch(url, target, md5(BODY))


def test_a_place_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be written: .*set\.tgz; make room"):
        fetch(server.url, tmp_path / "file" / "set.tgz", md5(BODY))
