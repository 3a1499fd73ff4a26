"""A file by URL: resumed where it was cut, verified by md5, and complete or not there at all."""

import hashlib
import re
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
from filelock import FileLock
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from abn import progress
from abn.errors import DataError, DiskError

TRIES = 5
PAUSE = 0.5  # seconds before the second try; doubled before each one after it
LONGEST_PAUSE = 60.0  # seconds; the most a server's Retry-After is obeyed
TIMEOUT = (10.0, 30.0)  # seconds to connect and between two reads
BLOCK = 1 << 20
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that another try may mend


class _Fault(Exception):
    """What may go away by itself; `pause` is how many seconds the server asked us to wait."""

    def __init__(self, what: str, pause: float = 0.0) -> None:
        super().__init__(what)
        self.pause = pause


def fetch(url: str, target: Path, md5: str) -> Path:
    """The path of a file with the content of `url` and the checksum `md5` (32 lower-case digits).

    http(s) is downloaded to `target`, once, whoever else asks for it at the same time; file:// and
    a plain path are verified where they are. Raises DataError, DiskError.
    """
    if (local := _local(url)) is not None:
        _verify(local, str(local), md5)
        return local
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if not _holds(target, md5):
            with FileLock(f"{target}.lock"):
                if not _holds(target, md5):
                    _download(url, target, md5)
    except OSError as error:
        what = f"cannot be written: {error.strerror or error}"
        remedy = "make room or give write access there and run again"
        raise DiskError(what, target, remedy) from error
    return target


def _local(url: str) -> Path | None:
    """The path that `url` names, or None for http(s)."""
    scheme = url.partition("://")[0].lower() if "://" in url else ""
    if scheme in ("http", "https"):
        return None
    if scheme not in ("", "file"):
        raise DataError("not http(s)://, file:// or a path", _shown(url), "correct data.url")
    path = Path(url2pathname(urlsplit(url).path)) if scheme else Path(url)
    if not path.is_file():
        raise DataError("no such file", path, "set data.url in params.yaml to an existing one")
    return path


def _shown(url: str) -> str:
    """`url` for a message: without user, password and query, which may be secrets."""
    return re.sub(r"[?#].*", "", re.sub(r"(?<=://).*@", "***@", url))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _holds(path: Path, md5: str) -> bool:
    return path.is_file() and _md5(path) == md5


def _verify(path: Path, name: str, md5: str) -> None:
    if (found := _md5(path)) != md5:
        what = f"expected md5 {md5}, found {found} in {path.stat().st_size} bytes"
        raise DataError(what, name, "correct data.url or data.md5 in params.yaml")


def _download(url: str, target: Path, md5: str) -> None:
    """Put the file at `url` in place of `target` once it is whole and right."""
    part = target.with_name(f"{target.name}.part")
    with _session(url) as session:
        joined = _complete(session, url, part)
        if joined and _md5(part) != md5:  # the pieces may be of two versions of the file
            part.unlink()
            _complete(session, url, part)
    try:
        _verify(part, _shown(url), md5)
    except DataError:
        part.unlink()
        raise
    part.replace(target)


def _session(url: str) -> requests.Session:
    """A session that asks for the bytes as they are and is never led from https to http."""
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"
    session.max_redirects = 5
    if url.lower().startswith("https://"):
        del session.adapters["http://"]
    return session


def _complete(session: requests.Session, url: str, part: Path) -> bool:
    """Bring `part` to its full length; True if it was joined from more than one answer."""
    etag, joined = "", False
    for attempt in range(TRIES):
        try:
            with _ask(session, url, part, etag) as answer:
                offset = _offset(answer, part)
                etag, joined = answer.headers.get("ETag", ""), joined or offset > 0
                _receive(answer, part, offset)
            return joined
        except (requests.RequestException, HTTPError, _Fault) as fault:
            reason = _reason(fault, url)
            pause = max(PAUSE * 2**attempt, getattr(fault, "pause", 0.0))
        if attempt + 1 < TRIES:
            progress.say(f"{_shown(url)}: {reason}; trying again in {pause:.1f} s")
            time.sleep(pause)
    raise DataError(f"{reason}, {TRIES} times", _shown(url), "check the network and run again")


def _ask(session: requests.Session, url: str, part: Path, etag: str) -> requests.Response:
    """Request what `part` lacks, provided that the file is still the one with `etag`."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and etag.startswith('"'):  # a weak validator (W/) must not be used for ranges
        headers["If-Range"] = etag
    return session.get(url, headers=headers, stream=True, timeout=TIMEOUT)


def _offset(answer: requests.Response, part: Path) -> int:
    """Where in `part` the body of `answer` belongs, in bytes."""
    have = part.stat().st_size if part.exists() else 0
    content_range = answer.headers.get("Content-Range", "")
    match answer.status_code:
        case 200:
            return 0
        case 206 if content_range.startswith(f"bytes {have}-"):
            return have
        case 416 if content_range == f"bytes */{have}":
            return have
        case 206 | 416:
            part.unlink(missing_ok=True)
            raise _Fault("the server sent another range than was asked for")
        case status if status in PASSING:
            wait = Retry().get_retry_after(answer.raw) or 0.0
            raise _Fault(f"HTTP {status}", min(wait, LONGEST_PAUSE))
    what = f"HTTP {answer.status_code} {answer.reason}"
    raise DataError(what, _shown(answer.url), "correct data.url")


def _receive(answer: requests.Response, part: Path, offset: int) -> None:
    """Write the body of `answer` to `part` from `offset` on; a short body is a fault."""
    if answer.status_code == 416:  # nothing is missing
        return
    total = _total(answer)
    with part.open("ab" if offset else "wb") as file, progress.bar(part.stem, total, "B") as bar:
        bar.update(offset)
        for block in answer.raw.stream(BLOCK, decode_content=False):
            file.write(block)
            bar.update(len(block))
    if total and part.stat().st_size != total:
        raise _Fault(f"the body ended at {part.stat().st_size} of {total} bytes")


def _total(answer: requests.Response) -> int:
    """The size of the whole file in bytes, 0 if the server does not say."""
    size = answer.headers.get("Content-Range", "").rpartition("/")[2]
    size = size or answer.headers.get("Content-Length", "")
    return int(size) if size.isdigit() else 0


def _reason(fault: Exception, url: str) -> str:
    """`fault` in words, not its own, which quote the URL; DataError if it will not pass."""
    if isinstance(fault, _Fault):
        return str(fault)
    if isinstance(fault, (ValueError, requests.TooManyRedirects)):
        kind = type(fault).__name__
        what = f"not a usable URL, or one that leads in circles or from https to http ({kind})"
        raise DataError(what, _shown(url), "correct data.url") from None
    return f"no complete answer ({type(fault).__name__})"
