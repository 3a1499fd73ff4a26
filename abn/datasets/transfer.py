"""A file over HTTP from a server that may be slow, hang, lie or break off: resumed, and bounded."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TypeVar

import requests
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from abn.runtime import files, progress
from abn.runtime.errors import DataError
from abn.runtime.redaction import redacted

T = TypeVar("T")

TRIES = 5
PAUSE = 0.5  # seconds before the second try; doubled before each one after it
LONGEST_PAUSE = 60.0  # seconds; the most a server's Retry-After is obeyed
TIMEOUT = (10.0, 30.0)  # seconds to connect and between two reads
ANSWER = 60.0  # seconds until a body must begin, redirects included
WINDOW = 60.0  # seconds over which the rate is measured
SLOWEST = 10 << 10  # bytes a second below which a server is given up
BLOCK = 1 << 16
LARGEST = 1 << 36  # bytes of a file whose size nobody says
PASSING = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that another try may mend


class _Fault(Exception):
    """What may go away by itself; `pause` is how many seconds the server asked us to wait."""

    def __init__(self, what: str, pause: float = 0.0) -> None:
        super().__init__(what)
        self.pause = pause


def transfer(url: str, part: Path, size: int | None = None) -> bool:
    """Bring `part` to the whole of the file at `url`; True if joined from more than one answer.

    A file that has not `size` bytes is refused before any of it is fetched. Raises DataError,
    DiskError where there is no room, OSError where `part` cannot be written.
    """
    etag, joined = "", False
    with _session(url) as session:
        for attempt in range(TRIES):
            try:
                with _ask(session, url, part, etag) as answer:
                    offset = _offset(answer, part)
                    etag, joined = answer.headers.get("ETag", ""), joined or offset > 0
                    _receive(answer, part, offset, size)
                return joined
            except (requests.RequestException, HTTPError, _Fault) as fault:
                reason = _reason(fault, url)
                pause = max(PAUSE * 2**attempt, getattr(fault, "pause", 0.0))
            if attempt + 1 < TRIES:
                progress.say(f"{redacted(url)}: {reason}; trying again in {pause:.1f} s")
                time.sleep(pause)
    raise DataError(f"{reason}, {TRIES} times", redacted(url), "check the network and run again")


def _session(url: str) -> requests.Session:
    """A session that asks for the bytes as they are and is never led from https to http."""
    session = requests.Session()
    session.headers["Accept-Encoding"] = "identity"
    session.max_redirects = 5
    if url.lower().startswith("https://"):
        del session.adapters["http://"]
    return session


def _ask(session: requests.Session, url: str, part: Path, etag: str) -> requests.Response:
    """Request what `part` lacks, provided that the file is still the one with `etag`."""
    have = _size(part)
    headers = {"Range": f"bytes={have}-"} if have else {}
    if have and etag.startswith('"'):  # a weak validator (W/) must not be used for ranges
        headers["If-Range"] = etag
    return _in_time(lambda: session.get(url, headers=headers, stream=True, timeout=TIMEOUT))


def _in_time(work: Callable[[], T]) -> T:
    """`work()`, or a fault after ANSWER: a header of one byte now and then meets every timeout."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()  # left behind when late: nothing can interrupt it
    try:
        return future.result(ANSWER)
    except TimeoutError:
        raise _Fault(f"no answer within {ANSWER:.0f} s") from None


def _offset(answer: requests.Response, part: Path) -> int:
    """Where in `part` the body of `answer` belongs, in bytes."""
    have = _size(part)
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
    raise DataError(what, redacted(answer.url), "correct data.url")


def _receive(answer: requests.Response, part: Path, offset: int, size: int | None) -> None:
    """Write the body of `answer` to `part` from `offset` on; a short body is a fault."""
    if answer.status_code == 416:  # nothing is missing
        return
    total = _total(answer)
    if size and total and total != size:
        raise _other_size(answer, f"{total:,}", size)
    most = size or total or LARGEST
    files.require_room(part.parent, (size or total) - _size(part))
    with part.open("ab" if offset else "wb") as file, progress.bar(part.stem, total, "B") as bar:
        bar.update(offset)
        for block in _blocks(answer):
            file.write(block)
            bar.update(len(block))
            if file.tell() > most:
                part.unlink()
                raise _other_size(answer, "more", most)
    if total and _size(part) != total:
        raise _Fault(f"the body ended at {_size(part)} of {total} bytes")


def _blocks(answer: requests.Response) -> Iterator[bytes]:
    """The body as it comes; a fault when it comes too slowly to be waited for."""
    since, count = time.monotonic(), 0
    while block := answer.raw.read1(BLOCK, decode_content=False):
        yield block
        count += len(block)
        if (passed := time.monotonic() - since) >= WINDOW:
            if count < SLOWEST * passed:
                raise _Fault(f"only {count:,} bytes came in {passed:.0f} s")
            since, count = time.monotonic(), 0


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _total(answer: requests.Response) -> int:
    """The size of the whole file in bytes, 0 if the server does not say."""
    size = answer.headers.get("Content-Range", "").rpartition("/")[2]
    size = size or answer.headers.get("Content-Length", "")
    return int(size) if size.isdigit() else 0


def _other_size(answer: requests.Response, found: str, size: int) -> DataError:
    what = f"{found} bytes where the file has {size:,}"
    return DataError(what, redacted(answer.url), "look at what is there, or correct data.url")


def _reason(fault: Exception, url: str) -> str:
    """`fault` in words, not its own, which quote the URL; DataError if it will not pass."""
    if isinstance(fault, _Fault):
        return str(fault)
    if isinstance(fault, (ValueError, requests.TooManyRedirects)):
        kind = type(fault).__name__
        what = f"not a usable URL, or one that leads in circles or from https to http ({kind})"
        raise DataError(what, redacted(url), "correct data.url") from None
    return f"no complete answer ({type(fault).__name__})"
