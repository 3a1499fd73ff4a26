"""Reading out of archives: honest ones in order, hostile and broken ones not at all."""

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest

from abn.datasets import archive
from abn.datasets.archive import Limits
from abn.errors import UserError

SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
SMALL = Limits(members=5, member=1 << 20, total=1 << 18, ratio=2)


def member(name, kind=tarfile.REGTYPE, link="", **pax):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, pax
    return info


def pack(path: Path, *members, kind=tarfile.PAX_FORMAT) -> Path:
    """An archive of `members`: TarInfo, or (TarInfo or name, content)."""
    with tarfile.open(path, "w:gz", format=kind) as tar:
        for item in members:
            info, content = item if isinstance(item, tuple) else (item, b"")
            info = member(info) if isinstance(info, str) else info
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def noise(size: int) -> bytes:
    return random.Random(0).randbytes(size)


@pytest.fixture
def honest(tmp_path):
    folder = member("a", tarfile.DIRTYPE)
    files = [("a/2", noise(300_000)), ("a/1", b"one"), ("b", b""), ("a/é" + "x" * 200, b"long")]
    return pack(tmp_path / "honest.tgz", folder, *files)


def test_files_are_listed_in_the_order_of_the_archive(honest):
    assert archive.names(honest) == ["a/2", "a/1", "b", "a/é" + "x" * 200]


def test_wanted_files_are_read_in_the_order_of_the_archive(honest):
    found = list(archive.read(honest, {"b", "a/1", "a/2", "absent"}))
    assert found == [("a/2", noise(300_000)), ("a/1", b"one"), ("b", b"")]


def test_reading_may_stop_early(honest):
    assert next(archive.read(honest, {"a/2"}))[0] == "a/2"


def test_folders_may_come_twice(tmp_path):
    folder = member("a", tarfile.DIRTYPE)
    assert archive.names(pack(tmp_path / "x.tgz", folder, "a/1", folder)) == ["a/1"]


HOSTILE = {
    "absolute name": ["/etc/passwd"],
    "parent folder": ["a/../../b"],
    "newline": ["a\nb"],
    "symbolic link": [member("link", tarfile.SYMTYPE, "/etc")],
    "hard link": [member("link", tarfile.LNKTYPE, "a")],
    "device": [member("null", tarfile.CHRTYPE)],
    "fifo": [member("pipe", tarfile.FIFOTYPE)],
    "sparse file": [(member("hole", **SPARSE), b"1\n0\n9\n")],
    "duplicate": ["a/1", "a/1"],
    "duplicate in disguise": ["a/1", "a/./1"],
    "clash of case": ["a/IMAGE", "a/image"],
    "large member": [("large", bytes((1 << 20) + 1))],
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_member_is_refused_by_name(tmp_path, kind):
    path = pack(tmp_path / "x.tgz", "fine", *HOSTILE[kind])
    last = HOSTILE[kind][-1]
    last = last[0] if isinstance(last, tuple) else last
    name = last if isinstance(last, str) else last.name
    with pytest.raises(UserError) as refusal:
        archive.names(path, SMALL)
    assert f"member {name!r}" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_too_many_members_are_refused(tmp_path):
    path = pack(tmp_path / "x.tgz", *"abcdef")
    with pytest.raises(UserError, match="more than 5 members"):
        archive.names(path, SMALL)


def test_a_bomb_of_files_is_refused(tmp_path):
    path = pack(tmp_path / "x.tgz", ("a", bytes(1 << 18)), ("b", bytes(1 << 18)))
    with pytest.raises(UserError, match="bomb"):
        archive.names(path, SMALL)


def test_a_bomb_behind_the_last_file_is_refused(tmp_path):
    path = pack(tmp_path / "x.tgz", "a")
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(1 << 22)))
    with pytest.raises(UserError, match="bomb"):
        archive.names(path, SMALL)


def test_a_header_is_not_read_into_memory_whatever_its_size(tmp_path):
    path = pack(tmp_path / "x.tgz", member("a", comment="c" * (1 << 20)))
    with pytest.raises(UserError, match="header is too large"):
        archive.names(path)


def test_a_long_chain_of_headers_is_refused(tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1
    link = header.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")
    path = tmp_path / "x.tgz"
    path.write_bytes(gzip.compress(link * 10_000))
    with pytest.raises(UserError, match="header is too large"):
        archive.names(path)


def test_a_cut_archive_is_refused_wherever_it_is_cut(honest):
    whole, files = honest.read_bytes(), set(archive.names(honest))
    for end in [0, 5, 100, 150_000, len(whole) - 9, len(whole) - 8, len(whole) - 1]:
        honest.write_bytes(whole[:end])
        with pytest.raises(UserError, match=r"not a whole .tgz archive: .*honest.tgz; delete it"):
            archive.names(honest)
        with pytest.raises(UserError, match=r"not a whole .tgz archive.*honest.tgz"):
            list(archive.read(honest, files))


def test_a_flipped_byte_never_passes(honest):
    whole = honest.read_bytes()
    for place in random.Random(1).sample(range(10, len(whole)), 40):
        flipped = bytearray(whole)
        flipped[place] ^= 0x55
        honest.write_bytes(flipped)
        with pytest.raises(UserError):
            archive.names(honest)


@pytest.mark.parametrize("content", [b"<html>not found</html>", gzip.compress(b"text")])
def test_another_kind_of_file_is_refused(tmp_path, content):
    path = tmp_path / "page.tgz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a whole"):
        archive.names(path)


def test_what_goes_wrong_while_a_file_is_used_is_left_alone(honest):
    with pytest.raises(ValueError, match="mine"):
        for _ in archive.read(honest, {"b"}):
            raise ValueError("mine")
