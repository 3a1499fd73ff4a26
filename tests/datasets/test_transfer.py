"""What is asked of a server, and what is refused before it is fetched.

How misbehaving servers end is in tests/faults/downloads.py.
"""

import io
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
from abn.datasets.transfer import transfer

from abn.datasets import transfer as module
from abn.runtime.errors import DataError, DiskError
from tests.servers import Server, answer, cut, serving

BODY = random.Random(0).randbytes(300_000)


@pytest.fixture
def server():
    with serving(BODY) as server:
        yield server


@pytest.fixture
def part(tmp_path: Path) -> Path:
    return tmp_path / "set.tgz.part"


def test_one_answer_is_whole_and_its_bytes_are_as_they_are(server: Server, part: Path) -> None:
    assert transfer(server.url, part) is False
    assert part.read_bytes() == BODY
    assert server.requests[0]["Accept-Encoding"] == "identity"


def test_a_cut_body_is_continued_if_it_is_still_the_same_file(server: Server, part: Path) -> None:
    server.script = [cut(BODY, 100_000), cut(BODY, 200_000)]
    assert transfer(server.url, part) is True
    assert part.read_bytes() == BODY
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=200000-"]
    assert server.requests[1]["If-Range"] == '"1"'


def test_a_part_from_an_earlier_run_is_continued(server: Server, part: Path) -> None:
    part.write_bytes(BODY[:5000])
    assert transfer(server.url, part) is True
    assert part.read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == ["bytes=5000-"]


def test_a_part_that_lacks_nothing_is_left(server: Server, part: Path) -> None:
    part.write_bytes(BODY)
    assert transfer(server.url, part) is True
    assert part.read_bytes() == BODY


@pytest.mark.parametrize(("asked", "waited"), [("7", 7), ("9999", 60), ("0", 0.5)])
def test_the_server_says_how_long_to_wait_within_reason(server, part, monkeypatch, asked, waited):
    pauses: list[float] = []
    monkeypatch.setattr(module.time, "sleep", pauses.append)
    monkeypatch.setattr(module, "PAUSE", 0.5)
    monkeypatch.setattr(module, "LONGEST_PAUSE", 60)
    server.script = [answer(503, Retry_After=asked)]
    transfer(server.url, part)
    assert pauses == [waited]


def test_another_size_is_refused_before_it_is_fetched(server: Server, part: Path) -> None:
    part.write_bytes(b"earlier")
    server.script = [answer(200, b"<html>log in</html>")]
    with pytest.raises(DataError, match=r"^19 bytes where the file has 300,000; .*set\.tgz;"):
        transfer(server.url, part, 300_000)
    assert part.read_bytes() == b"earlier"


def test_no_more_is_taken_than_a_file_may_have(server, part, monkeypatch) -> None:
    monkeypatch.setattr(module, "LARGEST", 1000)
    server.script = [lambda handler: handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n" + BODY)]
    with pytest.raises(DataError, match=r"^more bytes where the file has 1,000;"):
        transfer(server.url, part)
    assert not part.exists()


def test_room_is_asked_for_before_the_body_is_fetched(server, part, monkeypatch) -> None:
    part.write_bytes(BODY[:1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=298_999))
    with pytest.raises(DiskError, match="299,000 bytes are needed, 298,999 are free"):
        transfer(server.url, part)
    assert part.read_bytes() == BODY[:1000]


def test_https_is_never_left_for_http(server, part, monkeypatch) -> None:
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
    with pytest.raises(DataError, match="from https to http"):
        transfer("https://example.org/set.tgz", part)
    assert server.requests == []


@pytest.mark.parametrize("url", ["http://", "http://[", "http://host:port/x"])
def test_an_unusable_url_is_refused(part: Path, url: str) -> None:
    with pytest.raises(DataError, match=r"correct data\.url"):
        transfer(url, part)
