"""Files read straight out of a .tgz: nothing is ever extracted, so nothing can land anywhere."""

import gzip
import posixpath
import tarfile
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from abn.runtime.errors import DataError, DiskError

BLOCK = 1 << 16  # bytes read at a time
HEADERS = 1 << 16  # bytes that may lie between the end of one file and the start of the next


@dataclass(frozen=True)
class Limits:
    """The most an archive may hold; sizes in bytes. The default is far beyond Imagenette."""

    members: int = 2_000_000
    member: int = 64 << 20
    total: int = 1 << 30  # a larger total must not exceed `ratio` times the archive
    ratio: int = 200


LIMITS = Limits()


class _Unsafe(Exception):
    """What no honest archive holds, in words."""


def names(archive: Path, limits: Limits = LIMITS) -> list[str]:
    """The names of the files in `archive`, in its order, after reading all of it.

    Raises DataError for an archive that is damaged or that breaks `limits`, and for a member that
    is not a plain file or folder, leads outside, or comes twice; DiskError where it cannot be read.
    """
    with _readable(archive):
        return [member.name for member, _ in _files(archive, limits)]


def read(
    archive: Path, wanted: Container[str], limits: Limits = LIMITS
) -> Iterator[tuple[str, bytes]]:
    """Name and content of the `wanted` files, in the order of `archive`. Raises as `names` does."""
    with _readable(archive):
        for member, tar in _files(archive, limits):
            if member.name in wanted and (file := tar.extractfile(member)) is not None:
                yield member.name, file.read()


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    """Whatever is wrong with `archive` becomes an error that names it."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            raise DiskError(f"cannot be read: {error.strerror}", archive, "mend that") from error
        remedy = "delete it and run again, or correct data.url"
        raise DataError(f"not a whole .tgz archive: {error}", archive, remedy) from error
    except _Unsafe as error:
        raise DataError(str(error), archive, "set data.url to an archive that is safe") from None


class _Meter:
    """An unpacked stream that stops at a bomb before it has filled the memory."""

    def __init__(self, stream: gzip.GzipFile, most: int) -> None:
        self.stream, self.most = stream, most
        self.count = 0
        self.expect(0)

    def expect(self, size: int) -> None:
        """The next header is no further off than a content of `size` bytes."""
        self.bound = self.count + size + BLOCK + HEADERS

    def read(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.count += len(data)
        if self.count > self.most:
            raise tarfile.ReadError("it unpacks to far more than it holds, like a bomb")
        if self.count > self.bound:
            raise tarfile.ReadError("a header is too large")
        return data


def _files(archive: Path, limits: Limits) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Every regular file of `archive`, checked, with the stream standing at its content."""
    seen: set[str] = set()
    with gzip.open(archive) as stream:
        most = max(limits.total, limits.ratio * archive.stat().st_size)
        meter = _Meter(stream, most)
        with tarfile.open(fileobj=meter, mode="r|", bufsize=BLOCK) as tar:  # type: ignore[call-overload]
            for member in _members(tar, limits):
                _check(member, seen, limits)
                meter.expect(member.size)
                if member.isreg():
                    yield member, tar
        meter.expect(most)
        while meter.read(BLOCK):  # tarfile stops before the checksum of gzip
            pass


def _members(tar: tarfile.TarFile, limits: Limits) -> Iterator[tarfile.TarInfo]:
    count = 0
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory
        count += 1
        if count > limits.members:
            raise _Unsafe(f"more than {limits.members} members")
        yield member


def _check(member: tarfile.TarInfo, seen: set[str], limits: Limits) -> None:
    """Refuse a member that no honest data set has; `seen` gathers the names of the files."""
    name = member.name
    key = posixpath.normpath(name).casefold()
    if name.startswith("/") or ".." in name.split("/") or not name.isprintable():
        raise _Unsafe(f"member {name!r} has a name that is not a plain relative path")
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise _Unsafe(f"member {member.name!r} is neither a plain file nor a folder")
    if not 0 <= member.size <= limits.member:
        raise _Unsafe(f"member {member.name!r} has {member.size} bytes, not 0 to {limits.member}")
    if member.isreg() and key in seen:
        raise _Unsafe(f"member {member.name!r} comes twice")
    if member.isreg():
        seen.add(key)
