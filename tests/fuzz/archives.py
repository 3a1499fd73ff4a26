"""Archives, damaged within or without their compression: safe files or DataError, nothing else."""

import gzip
import random
import tarfile
from functools import cache
from pathlib import Path

from abn.datasets import archive
from abn.runtime.errors import DataError
from tests import tars
from tests.fuzz._bytes import damaged

LINKS = [tars.member("top/link", tarfile.SYMTYPE, "one.JPEG")]


def example(draws: random.Random, folder: Path) -> None:
    path = folder / "fuzzed.tgz"
    path.write_bytes(_archive(draws))
    try:
        names = archive.names(path)
        contents = dict(archive.read(path, names))
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert set(names) == set(contents)
        for name in names:
            assert not name.startswith("/") and ".." not in name.split("/")
    assert list(folder.iterdir()) == [path], "something was written"


def _archive(draws: random.Random) -> bytes:
    tar = draws.choice(seeds())
    if draws.random() < 0.2:
        return damaged(gzip.compress(tar, 1, mtime=0), draws)
    tar = damaged(tar, draws)
    if draws.random() < 0.8:  # else no fault in a header gets past its checksum
        tar = tars.with_sums(tar)
    return gzip.compress(tar, 1, mtime=0)


@cache
def seeds() -> list[bytes]:
    """Small archives in the three formats, with a member of every kind."""
    kinds = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]
    return [tars.tar(*_members(kind), *more, kind=kind) for kind in kinds for more in ([], LINKS)]


def _members(kind: int) -> list[tars.Member]:
    found: list[tars.Member] = [tars.member("top", tarfile.DIRTYPE), ("top/one.JPEG", b"1" * 700)]
    if kind != tarfile.USTAR_FORMAT:
        found.append(("top/" + "long" * 40, b"2" * 10))
    return [*found, tars.member("top/two.JPEG", comment="c", mtime="1.5")]
