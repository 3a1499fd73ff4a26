"""A file by URL: verified by md5, downloaded once, and complete or not there at all."""

import hashlib
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from abn.datasets.transfer import transfer
from abn.runtime import files, locks
from abn.runtime.errors import DataError
from abn.runtime.redaction import redacted


def fetch(url: str, target: Path, md5: str, size: int | None = None) -> Path:
    """The path of a file with the content of `url` and the checksum `md5` (32 lower-case digits).

    http(s) is downloaded to `target`, once, whoever else asks for it at the same time; file:// and
    a plain path are verified where they are. `size` in bytes, where it is known, tells another
    file before it is downloaded. Raises DataError, DiskError, BusyError.
    """
    if (local := _local(url)) is not None:
        _verify(local, str(local), md5)
        return local
    lock = target.with_name(f"{target.name}.lock")
    with files.writing(target):
        if lock.exists() or not _holds(target, md5):  # a killed process may have left the lock
            with locks.alone(lock, f"the download of {target}"):
                if not _holds(target, md5):
                    _download(url, target, md5, size)
    return target


def _local(url: str) -> Path | None:
    """The path that `url` names, or None for http(s)."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in ("http", "https"):
        return None
    if scheme not in ("", "file"):
        raise DataError("not http(s)://, file:// or a path", redacted(url), "correct data.url")
    path = Path(url2pathname(urlsplit(url).path)) if scheme else Path(url)
    if not path.is_file():
        raise DataError("no such file", path, "set data.url in params.yaml to an existing one")
    return path


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _holds(path: Path, md5: str) -> bool:
    return path.is_file() and _md5(path) == md5


def _verify(path: Path, name: str, md5: str) -> None:
    if (found := _md5(path)) != md5:
        what = f"expected md5 {md5}, found {found} in {path.stat().st_size} bytes"
        raise DataError(what, name, "correct data.url or data.md5 in params.yaml")


def _download(url: str, target: Path, md5: str, size: int | None) -> None:
    """Put the file at `url` in place of `target` once it is whole and right."""
    part = target.with_name(f"{target.name}.part")
    try:
        joined = transfer(url, part, size)
        if joined and _md5(part) != md5:  # the pieces may be of two versions of the file
            part.unlink()
            transfer(url, part, size)
        _keep(part, redacted(url), md5)
        files.settle(part, target)
    except OSError:
        part.unlink(missing_ok=True)  # a full disk is not left full
        raise


def _keep(part: Path, name: str, md5: str) -> None:
    """Verify `part`, and remove it when it is not what was asked for."""
    try:
        _verify(part, name, md5)
    except DataError:
        part.unlink()
        raise
