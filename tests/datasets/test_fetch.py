"""A file by its URL, verified, downloaded once, and its secrets kept.

How misbehaving servers end is in tests/faults/downloads.py.
"""

import hashlib
import random
from pathlib import Path

import pytest
from abn.datasets.fetch import fetch

from abn.runtime.errors import UserError
from tests.servers import answer, cut, serving

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def server():
    with serving(BODY) as server:
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "set.tgz"


def names(target: Path) -> set[str]:
    return {path.name for path in target.parent.glob("*")}


def test_a_file_arrives_whole_and_leaves_nothing_else(server, target):
    assert fetch(server.url, target, md5(BODY)) == target
    assert target.read_bytes() == BODY
    assert names(target) == {"set.tgz"}


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


def test_pieces_of_two_files_without_etags_are_started_over(server, target):
    server.script = [answer(200, OTHER[:1000], length=len(OTHER))]
    fetch(server.url, target, md5(BODY))
    assert target.read_bytes() == BODY
    assert [request.get("Range") for request in server.requests] == [None, "bytes=1000-", None]


def test_a_server_that_never_recovers_is_given_up_and_the_part_kept(server, target):
    server.script = [cut(BODY, 1000)] + [answer(503)] * 4
    with pytest.raises(UserError, match=r"HTTP 503, 5 times; .*set\.tgz; check the network"):
        fetch(server.url, target, md5(BODY))
    assert names(target) == {"set.tgz.part"}


def test_a_wrong_md5_is_told_in_full_and_nothing_is_kept(server, target):
    with pytest.raises(UserError) as refusal:
        fetch(server.url, target, md5(OTHER))
    message = str(refusal.value)
    for part in (server.url, md5(OTHER), md5(BODY), "300000 bytes", "data.url or data.md5"):
        assert part in message
    assert names(target) == set()
    assert len(server.requests) == 1


def test_a_secret_in_a_url_is_never_shown(server, target, capfd):
    secret = server.url.replace("://", "://user:p@ss/w?rd@") + "?token=t0ken#t0ken"
    for url in (secret, secret.replace("@ss/w?rd", ""), secret.replace("http:", "ftp:")):
        with pytest.raises(UserError) as refusal:
            fetch(url, target, md5(OTHER))
        shown = str(refusal.value) + "".join(capfd.readouterr())
        assert "://***@127.0.0.1" in shown
        assert "set.tgz" in shown
        assert not any(part in shown for part in ("user", "p@ss", "rd@", "t0ken"))


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


@pytest.mark.parametrize("url", ["http://", "s3://bucket/x"])
def test_an_unusable_url_is_refused(target, url):
    with pytest.raises(UserError, match=r"correct data\.url"):
        fetch(url, target, md5(BODY))


def test_a_place_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"cannot be written: .*set\.tgz; make room"):
        fetch(server.url, tmp_path / "file" / "set.tgz", md5(BODY))
