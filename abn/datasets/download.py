"""A file by URL: continued where it broke off, and verified by md5."""

import hashlib
import time
from http.client import responses
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import requests
from requests.adapters import HTTPAdapter
from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from abn.runtime import files, locks, progress
from abn.runtime.errors import DataError
from abn.runtime.redaction import redacted

TRIES, BACKOFF = 5, 0.5  # seconds before the second try; doubled before each one after it
TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two pieces of an answer
BLOCK = 1 << 16  # bytes


class _Retry(Retry):
    """Says that it waits; a Retry-After that makes no sense counts as none."""

    def get_retry_after(self, response: BaseHTTPResponse) -> float | None:
        try:
            return super().get_retry_after(response)
        except (HTTPError, ValueError, ArithmeticError):
            return None

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        progress.say("the server is busy or does not answer; trying again")
        super().sleep(response)


RETRY = _Retry(  # of what fails before a body begins
    total=TRIES - 1,
    other=0,  # such as a wrong certificate
    status_forcelist=(408, 425, 429, 500, 502, 503, 504),
    backoff_factor=BACKOFF,
    retry_after_max=60,  # seconds; the most that a server's Retry-After is obeyed
    raise_on_status=False,
)


def fetch(url: str, target: Path, md5: str) -> Path:
    """The path of a file with the content of `url` and the checksum `md5` (32 lower-case digits).

    http(s) is downloaded to `target`, once even if several processes ask at the same time; an
    interrupted download is continued. file:// and a plain path are verified where they are.
    Raises DataError, DiskError, BusyError.
    """
    if (local := _local(url)) is not None:
        _verify(local, local, md5)
        return local
    lock = locks.alone(target.with_name(f"{target.name}.lock"), f"the download of {target}")
    with files.writing(target), lock:
        if not target.is_file() or _md5(target) != md5:
            _download(url, target, md5)
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
        raise DataError("no such file", path, "correct data.url")
    return path


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _verify(path: Path, name: object, md5: str) -> None:
    """DataError unless `path` has this md5."""
    if (actual := _md5(path)) != md5:
        what = f"md5 is {actual} ({path.stat().st_size} bytes), not {md5}"
        raise DataError(what, name, "correct data.url or data.md5")


def _download(url: str, target: Path, md5: str) -> None:
    """Put the file at `url` in place of `target` once its checksum is right."""
    part = target.with_name(f"{target.name}.part")
    if _complete(url, part) and _md5(part) != md5:  # pieces of two versions: once more, from zero
        part.unlink()
        _complete(url, part)
    try:
        _verify(part, redacted(url), md5)
    except DataError:
        part.unlink()
        raise
    files.settle(part, target)


def _complete(url: str, part: Path) -> bool:
    """Make `part` the whole file at `url`; True if it comes from more than one answer."""
    continued, session = part.exists(), requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=RETRY))
    for attempt in range(TRIES):
        try:
            _receive(session, url, part)
            return continued
        except HTTPError as error:
            reason, continued = f"the download broke off ({type(error).__name__})", True
        except (requests.RequestException, ValueError, ArithmeticError) as error:  # quotes the URL
            raise _unavailable(f"no usable answer ({type(error).__name__})", url) from None
        if attempt + 1 < TRIES:
            progress.say(f"{redacted(url)}: {reason}; trying again")
            time.sleep(BACKOFF * 2**attempt)
    raise _unavailable(f"{reason}, {TRIES} times", url)


def _receive(session: requests.Session, url: str, part: Path) -> None:
    """Append to `part` what it lacks of the file at `url`; HTTPError where the body breaks off."""
    size = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status, length = response.status_code, response.raw.length_remaining or 0
        if status == 416 and size:  # nothing is missing
            return
        if status not in (200, 206):
            raise _unavailable(f"HTTP {status} {responses.get(status, '')}", url)
        size = size if status == 206 else 0  # else the server sends all of the file
        files.require_room(part.parent, length)
        bar = progress.bar(part.stem, size + length, "B")
        with part.open("ab" if size else "wb") as file, bar:
            bar.update(size)
            for block in response.raw.stream(BLOCK, decode_content=False):
                bar.update(file.write(block))


def _unavailable(what: str, url: str) -> DataError:
    return DataError(what, redacted(url), "check data.url and the network, then run again")
