"""Archives of any members, sound or not."""

import gzip
import io
import tarfile

import numpy as np
from PIL import Image

from abn.datasets.imagenette import CLASSES

Member = tarfile.TarInfo | str | tuple[tarfile.TarInfo | str, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", **pax: str) -> tarfile.TarInfo:
    """The header of a member; `pax` are entries of its extended header."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.pax_headers = kind, link, pax
    return info


def tar(*members: Member, kind: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of `members`: headers or names, alone or with their content."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for item in members:
            info, content = item if isinstance(item, tuple) else (item, b"")
            info = member(info) if isinstance(info, str) else info
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def tgz(*members: Member, kind: int = tarfile.PAX_FORMAT) -> bytes:
    return gzip.compress(tar(*members, kind=kind), 1, mtime=0)


def imagenette() -> bytes:
    """An archive laid out as Imagenette's: three images of noise for each class and split."""
    draws, images = np.random.default_rng(0), []
    for split in ("train", "val"):
        for name in (f"{wnid}/{i}" for wnid in CLASSES for i in "abc"):
            file = io.BytesIO()
            Image.fromarray(draws.integers(0, 256, (40, 50, 3), np.uint8)).save(file, "JPEG")
            images.append((f"imagenette2-160/{split}/{name}.JPEG", file.getvalue()))
    return tgz(*images)


def header(name: str, size: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header with `size` written as it is, 12 bytes, and its checksum right."""
    block = bytearray(member(name, kind).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = size
    return with_checksums(bytes(block))


def with_checksums(archive: bytes) -> bytes:
    """`archive` with the checksums of its headers right again."""
    result = bytearray(archive)
    for place in range(0, len(result) - 511, 512):
        if result[place + 257 : place + 262] == b"ustar":
            result[place + 148 : place + 156] = b" " * 8
            result[place + 148 : place + 156] = b"%06o\0 " % sum(result[place : place + 512])
    return bytes(result)
