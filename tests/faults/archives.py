"""Hostile and broken archives: one error each, nothing written, nowhere."""

import gzip
import io
import lzma
import random
import re
import tarfile
import time
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

from abn.datasets import archive
from abn.datasets.archive import Limits
from abn.runtime.errors import DataError
from tests.faults import Outcome, kind
from tests.tars import Member, header, member, tar, tgz

SMALL = Limits(members=20, member=1 << 20, total=1 << 18, ratio=2)
LONGEST = 5.0  # seconds
NOISE = random.Random(0).randbytes(100_000)
HONEST = tgz(("top/one.JPEG", NOISE), ("top/two.JPEG", NOISE[::-1]))
END = bytes(1024)
SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
LINK = tarfile.SYMTYPE
PLAIN = "a name that is not a plain relative path"
KIND = "neither a plain file nor a folder"


def refused(make: Callable[[random.Random], bytes], words: str, folder: Path, draws: random.Random):
    """One DataError that says `words`, from listing and from reading; no file but the archive."""
    (folder / "inside").mkdir()
    path = folder / "inside" / "set.tgz"
    path.write_bytes(make(draws))
    start = time.monotonic()
    for use in (archive.names, contents):
        try:
            use(path, limits=SMALL)
            raise AssertionError("no error")
        except DataError as error:
            assert re.search(words, str(error)) and "\n" not in str(error), error
    seconds = time.monotonic() - start
    assert seconds < LONGEST
    assert [p for p in folder.rglob("*") if p.is_file() or p.is_symlink()] == [path]
    return Outcome("error[DATA]", seconds=seconds)


def contents(path: Path, limits: Limits) -> list[tuple[str, bytes]]:
    """All that can be read, whatever it is called."""
    everything = mock.MagicMock(__contains__=lambda *_: True)
    return list(archive.read(path, everything, limits))


HOSTILE: dict[str, tuple[list[Member], str]] = {
    "absolute name": (["/etc/passwd"], PLAIN),
    "name through a parent": (["top/../../outside"], PLAIN),
    "name that is a parent": ([".."], PLAIN),
    "name with a newline": (["top/a\nb.JPEG"], PLAIN),
    "name with an escape": (["top/\x1b[2J.JPEG"], PLAIN),
    "name written backwards": (["top/\u202egepj.JPEG"], PLAIN),
    "name not UTF-8": (["top/\udcff.JPEG"], PLAIN),
    "extended header renames": ([member("top/a", path="../../outside")], PLAIN),
    "symbolic link": ([member("top/link", LINK, "/etc/passwd")], KIND),
    "symbolic link to a folder, then through it": (
        [member("top/link", LINK, "../.."), "top/link/outside"],
        KIND,
    ),
    "circle of links": ([member("a", LINK, "b"), member("b", LINK, "a")], KIND),
    "hard link": ([member("top/link", tarfile.LNKTYPE, "/etc/passwd")], KIND),
    "character device": ([member("top/zero", tarfile.CHRTYPE)], KIND),
    "block device": ([member("top/disk", tarfile.BLKTYPE)], KIND),
    "fifo": ([member("top/pipe", tarfile.FIFOTYPE)], KIND),
    "sparse file": ([(member("top/hole", **SPARSE), b"1\n0\n9\n")], KIND),
    "same name twice": (["top/a", "top/a"], "comes twice"),
    "same name in disguise": (["top/a", "top/./a"], "comes twice"),
    "same name in other case": (["top/a.JPEG", "TOP/A.jpeg"], "comes twice"),
    "large member": ([("top/a", bytes((1 << 20) + 1))], "bytes, not 0 to 1048576"),
    "too many members": ([f"top/{i}" for i in range(21)], "more than 20 members"),
    "bomb of files": ([(f"top/{i}", bytes(1 << 17)) for i in range(4)], "like a bomb"),
    "extended header of a megabyte": ([member("a", comment="c" * (1 << 20))], "header is too lar"),
    "name of a megabyte": (["n" * (1 << 20)], "header is too large"),
}
for name, (members, words) in HOSTILE.items():
    kind("archives", name)(partial(refused, lambda _, m=members: tgz("top/fine", *m), words))


def longlinks(_: random.Random) -> bytes:
    link = tarfile.TarInfo("././@LongLink")
    link.type, link.size = tarfile.GNUTYPE_LONGNAME, 1
    return gzip.compress((link.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * 10_000)


def longlink(_: random.Random) -> bytes:
    name = b"top/" + b"../" * 60 + b"outside"
    link = header("././@LongLink", b"%011o\0" % len(name), tarfile.GNUTYPE_LONGNAME)
    return gzip.compress(link + name.ljust(512, b"\0") + tar("short"))


def old_sparse(_: random.Random) -> bytes:
    return gzip.compress(header("top/hole", b"%011o\0" % 0, tarfile.GNUTYPE_SPARSE) + END)


def negative(_: random.Random) -> bytes:
    return gzip.compress(header("top/a", b"\xff" * 10 + b"\xfe\x00") + END)


def astronomical(_: random.Random) -> bytes:
    return gzip.compress(header("top/a", b"\x80" + b"\x7f" * 11) + END)


def beyond(_: random.Random) -> bytes:
    return gzip.compress(header("top/a", b"%011o\0" % 5000) + END)


def cut(draws: random.Random) -> bytes:
    return HONEST[: draws.randrange(len(HONEST))]


def flipped(draws: random.Random) -> bytes:
    """One bit another, but for the header's time, system and compression, which say nothing."""
    place = draws.choice([*range(4), *range(10, len(HONEST))])
    return HONEST[:place] + bytes([HONEST[place] ^ 1 << draws.randrange(8)]) + HONEST[place + 1 :]


def zipped(_: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("top/one.JPEG", NOISE)
    return file.getvalue()


BROKEN: dict[str, tuple[Callable[[random.Random], bytes], str]] = {
    "long name leads outside": (longlink, PLAIN),
    "chain of long names": (longlinks, "header is too large"),
    "sparse file of the old kind": (old_sparse, KIND),
    "negative size": (negative, "has -[0-9]+ bytes"),
    "size beyond all disks": (astronomical, "bytes, not 0 to 1048576"),
    "size beyond the end": (beyond, "not a whole .tgz"),
    "extended size is negative": (
        lambda _: gzip.compress(tar(member("top/a", size="-9")) + END),
        "has -[0-9]+ bytes",
    ),
    "bomb behind the last file": (
        lambda _: HONEST + gzip.compress(bytes(1 << 22)),
        "like a bomb",
    ),
    "bomb of nothing": (lambda _: gzip.compress(bytes(1 << 26)), "like a bomb|not a whole"),
    "cut": (cut, "not a whole .tgz"),
    "one bit another": (flipped, "not a whole .tgz|member"),
    "garbage behind the end": (lambda _: HONEST + b"garbage", "not a whole .tgz"),
    "checksum of another file": (
        lambda _: HONEST[:-8] + b"\0\0\0\0" + HONEST[-4:],
        "not a whole .tgz",
    ),
    "length of another file": (lambda _: HONEST[:-4] + b"\1\0\0\0", "not a whole .tgz"),
    "empty file": (lambda _: b"", "not a whole .tgz"),
    "web page": (lambda _: b"<html>not found</html>", "not a whole .tgz"),
    "compressed text": (lambda _: gzip.compress(b"text"), "not a whole .tgz"),
    "compressed twice": (lambda _: gzip.compress(HONEST), "not a whole .tgz"),
    "not compressed": (lambda _: tar("top/one.JPEG"), "not a whole .tgz"),
    "another compression": (lambda _: lzma.compress(tar("top/one.JPEG")), "not a whole .tgz"),
    "zip": (zipped, "not a whole .tgz"),
}
for name, (make, words) in BROKEN.items():
    kind("archives", name)(partial(refused, make, words))
