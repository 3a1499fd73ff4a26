"""Archives read: sound ones in order, others refused in one line, nothing ever written."""

import gzip
import lzma
import random
import tarfile
from pathlib import Path

import pytest

from abn.datasets import archive
from abn.runtime.errors import DataError, DiskError
from tests.damage import damaged
from tests.tars import Member, header, member, tar, tgz, with_checksums

NOISE = random.Random(0).randbytes(100_000)
LONG = "a/é" + "x" * 200
SOUND = tgz(member("a", tarfile.DIRTYPE), ("a/2", NOISE), ("a/1", b"one"), (LONG, b"long"))
END = bytes(1024)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "set.tgz"
    path.write_bytes(SOUND)
    return path


def refusal(path: Path) -> str:
    """The one line that listing and reading end in."""
    messages = set()
    for use in (archive.names, lambda path: list(archive.read(path, Everything()))):
        with pytest.raises(DataError) as caught:
            use(path)
        assert caught.value.line().isprintable()
        messages.add(str(caught.value))
    assert list(path.parent.iterdir()) == [path]
    return messages.pop()


class Everything:
    def __contains__(self, name: object) -> bool:
        return True


def test_files_are_listed_and_read_in_the_order_of_the_archive(path: Path) -> None:
    assert archive.names(path) == ["a/2", "a/1", LONG]
    wanted = {LONG, "a/1", "a/2", "absent"}
    assert list(archive.read(path, wanted)) == [("a/2", NOISE), ("a/1", b"one"), (LONG, b"long")]
    assert next(archive.read(path, {"a/1"})) == ("a/1", b"one")


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_every_format_is_read_and_a_folder_may_come_twice(path: Path, kind: int) -> None:
    folder = member("a", tarfile.DIRTYPE)
    path.write_bytes(tgz(folder, ("a/1", b"one"), folder, (LONG, b"long"), kind=kind))
    assert dict(archive.read(path, Everything())) == {"a/1": b"one", LONG: b"long"}


ODD: dict[str, tuple[list[Member], str]] = {
    "symbolic link": (
        [member("a/link", tarfile.SYMTYPE, "/etc/passwd")],
        "'a/link' is a link, a de",
    ),
    "device": ([member("a/zero", tarfile.CHRTYPE)], "'a/zero' is a link, a device or comes twice"),
    "pipe": ([member("a/pipe", tarfile.FIFOTYPE)], "'a/pipe' is a link, a device"),
    "large member": ([("a/1", bytes(1001))], "'a/1' is too large"),
    "same name twice": (["a/1", "a/1"], "'a/1' is a link, a device or comes twice"),
    "name that moves the cursor": (["\x1b[2J", "\x1b[2J"], r"'\x1b[2J' is a link"),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_member_is_refused_by_name(
    path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "LARGEST_MEMBER", 1000)
    members, words = ODD[kind]
    path.write_bytes(tgz("fine", *members))
    message = refusal(path)
    assert message.startswith(f"not a usable .tgz archive: {words}")
    assert message.endswith(f"{path}; delete it and run again, or correct data.url")


BROKEN = {
    "negative size": gzip.compress(header("a/1", b"\xff" * 10 + b"\xfe\x00") + END),
    "size beyond the end": gzip.compress(header("a/1", b"%011o\0" % 5000) + END),
    "negative extended size": gzip.compress(tar(member("a/1", size="-9")) + END),
    "garbage behind the end": SOUND + b"garbage",
    "checksum of another file": SOUND[:-8] + b"\0\0\0\0" + SOUND[-4:],
    "empty": b"",
    "web page": b"<html>not found</html>",
    "compressed twice": gzip.compress(SOUND),
    "not compressed": tar("a/1"),
    "another compression": lzma.compress(tar("a/1")),
} | {f"cut at {end}": SOUND[:end] for end in (5, 100, 50_000, len(SOUND) - 9, len(SOUND) - 1)}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_archive_is_refused(path: Path, kind: str) -> None:
    path.write_bytes(BROKEN[kind])
    assert refusal(path).startswith("not a usable .tgz archive: ")


def test_what_the_disk_refuses_is_not_a_fault_of_the_archive(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match=r"^cannot be read: Is a directory; "):
        archive.names(tmp_path)


def test_an_error_while_a_file_is_used_is_left_alone(path: Path) -> None:
    with pytest.raises(ValueError, match="mine"):
        for _ in archive.read(path, Everything()):
            raise ValueError("mine")


def test_a_damaged_archive_is_read_or_refused_and_nothing_is_written(path: Path) -> None:
    kinds = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]
    link, comment = member("top/l", tarfile.SYMTYPE, "a"), member("top/b", comment="c", mtime="1.5")
    members = ("top/a", b"1" * 700), (LONG[:50], b"2" * 10), comment
    tars = [tar(*members, *more, kind=kind) for kind in kinds for more in ([], [link])]
    read = 0
    for seed in range(300):
        draws = random.Random(seed)
        content = damaged(draws.choice(tars), draws)
        if draws.random() < 0.8:  # else a damaged header is refused by its checksum
            content = with_checksums(content)
        path.write_bytes(gzip.compress(content, 1, mtime=0))
        try:
            names = archive.names(path)
            assert list(dict(archive.read(path, names))) == names
            read += 1
        except DataError as error:
            assert error.line().isprintable()
    assert 10 < read < 290 and list(path.parent.iterdir()) == [path]
