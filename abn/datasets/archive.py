"""Files read straight out of a .tgz: nothing is ever extracted, so nothing can be overwritten."""

import gzip
import tarfile
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager
from pathlib import Path

from abn.runtime.errors import DataError, DiskError

LARGEST_MEMBER = 64 << 20  # bytes
BLOCK = 1 << 20


def names(archive: Path) -> list[str]:
    """The names of the files in `archive`, in its order, after reading all of it.

    Raises DataError for an archive that is damaged, and for a member that is too large, comes twice
    or is neither a file nor a folder; DiskError where it cannot be read.
    """
    with _readable(archive):
        return [member.name for member, _ in _files(archive)]


def read(archive: Path, wanted: Container[str]) -> Iterator[tuple[str, bytes]]:
    """Name and content of the `wanted` files, in the order of `archive`. Raises as `names` does."""
    with _readable(archive):
        for member, tar in _files(archive):
            if member.name in wanted and (file := tar.extractfile(member)) is not None:
                yield member.name, file.read()


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, ValueError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno:
            what, remedy = f"cannot be read: {error.strerror}", "check the file's permissions"
            raise DiskError(what, archive, remedy) from error
        remedy = "delete it and run again, or correct data.url"
        raise DataError(f"not a usable .tgz archive: {error}", archive, remedy) from error


def _files(archive: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Every file of `archive`, with the stream standing at its content."""
    seen = set()
    with gzip.open(archive) as stream:
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if not 0 <= member.size <= LARGEST_MEMBER:
                    raise tarfile.ReadError(f"{member.name!r} is too large")
                if member.name in seen or not (member.isreg() or member.isdir()):
                    raise tarfile.ReadError(f"{member.name!r} is a link, a device or comes twice")
                if member.isreg():
                    seen.add(member.name)
                    yield member, tar
        while stream.read(BLOCK):  # tarfile stops before the checksum of gzip
            pass
