"""Reading out of archives: honest ones in order, others not at all.

What hostile and broken archives end in is in tests/faults/archives.py.
"""

import random
import tarfile
from pathlib import Path

import pytest

from abn.datasets import archive
from abn.runtime.errors import DataError, DiskError
from tests.tars import member, tgz

NOISE = random.Random(0).randbytes(300_000)
LONG = "a/é" + "x" * 200


@pytest.fixture
def honest(tmp_path: Path) -> Path:
    path = tmp_path / "honest.tgz"
    folder = member("a", tarfile.DIRTYPE)
    path.write_bytes(tgz(folder, ("a/2", NOISE), ("a/1", b"one"), ("b", b""), (LONG, b"long")))
    return path


def test_files_are_listed_in_the_order_of_the_archive(honest: Path) -> None:
    assert archive.names(honest) == ["a/2", "a/1", "b", LONG]


def test_wanted_files_are_read_in_the_order_of_the_archive(honest: Path) -> None:
    found = list(archive.read(honest, {"b", "a/1", "a/2", "absent"}))
    assert found == [("a/2", NOISE), ("a/1", b"one"), ("b", b"")]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_format_is_read(tmp_path: Path, kind: int) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(tgz(("a/1", b"one"), (LONG, b"long"), kind=kind))
    assert dict(archive.read(path, {"a/1", LONG})) == {"a/1": b"one", LONG: b"long"}


def test_reading_may_stop_early(honest: Path) -> None:
    assert next(archive.read(honest, {"a/2"}))[0] == "a/2"


def test_folders_may_come_twice(tmp_path: Path) -> None:
    path, folder = tmp_path / "x.tgz", member("a", tarfile.DIRTYPE)
    path.write_bytes(tgz(folder, "a/1", folder))
    assert archive.names(path) == ["a/1"]


def test_a_hostile_member_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(tgz("fine", "a/../../b"))
    with pytest.raises(DataError, match=r"^member .a/.*b. has a name .*x\.tgz; set data\.url"):
        archive.names(path)


def test_a_cut_archive_is_refused_wherever_it_is_cut(honest: Path) -> None:
    whole, files = honest.read_bytes(), set(archive.names(honest))
    for end in [0, 5, 100, 150_000, len(whole) - 9, len(whole) - 8, len(whole) - 1]:
        honest.write_bytes(whole[:end])
        for use in (archive.names, lambda path: list(archive.read(path, files))):
            with pytest.raises(DataError, match=r"not a whole .tgz archive.*honest.tgz; delete it"):
                use(honest)


def test_what_the_disk_refuses_is_no_fault_of_the_archive(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"^cannot be read: Is a directory; "):
        archive.names(tmp_path)


def test_what_goes_wrong_while_a_file_is_used_is_left_alone(honest: Path) -> None:
    with pytest.raises(ValueError, match="mine"):
        for _ in archive.read(honest, {"b"}):
            raise ValueError("mine")
