"""From journals into MLflow: again and again until it is there, and never twice.

`python -m abn.replay JOURNAL` runs beside the process that writes the journal, sends it as it
grows, after all older ones that wait, and ends soon after that process, however that ends.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from abn import journal, runs, tracking
from abn.journal import LIMIT, Event, Head
from abn.runs import Monitor, Record, Refused

POLL = 1.0  # seconds between two looks at the journal
SAMPLE = 30.0  # seconds between two measurements of the machine
FIRST_PAUSE, LONGEST_PAUSE = 30.0, 600.0  # seconds after a failure: doubled at each
PATIENCE = 10.0  # seconds, at the end, for a store that answered last time
LITTLE_PATIENCE = 2.0  # and for one that did not


class Replay:
    """One journal on its way into its run."""

    def __init__(self, client: Any, path: Path, head: Head) -> None:
        self._path, self._read = path, 0
        self.record = Record(client, head)
        self._end: Event | None = None
        self._last = head.began

    def send(self) -> None:
        """What the journal holds by now and the run has not."""
        events, self._read = journal.read(self._path, self._read)
        self.record.add(events)
        for event in events:
            self._last = event.time
            self._end = event if event.end else self._end

    def close(self) -> None:
        """All has been sent: end the run as the journal says (KILLED if nothing), forget it."""
        if self._end and self._end.end:
            self.record.end(self._end.end, self._end.time)
        else:
            self.record.end("KILLED", self._last)
        journal.remove(self._path)


def waiting(client: Any, before: Path | None = None) -> Iterator[tuple[str, str]]:
    """Send the journals of this store that nobody holds, oldest first; name and news of each."""
    for path, head in journal.heads(tracking.journals()):
        if before and path.name >= before.name:
            return
        if head.store == tracking.address():
            with journal.claim(path) as ours:
                if ours:
                    yield head.name, _send(client, path, head)


def _send(client: Any, path: Path, head: Head) -> str:
    try:
        replay = Replay(client, path, head)
        replay.send()
        replay.close()
    except Refused as error:
        aside = path.rename(path.with_suffix(".refused"))
        return f"refused by MLflow ({tracking.reason(error)}), set aside as {aside}"
    return news(replay.record)


def news(record: Record) -> str:
    """What a run got that it had not."""
    return f"{record.added} new" if record.added else "nothing new"


class Breaker:
    """When a store that failed is tried again."""

    def __init__(self) -> None:
        self._pause = self._until = 0.0

    def closed(self) -> bool:
        """Whether to try now."""
        return time.monotonic() >= self._until

    def failed(self) -> None:
        """Wait, twice as long as the last time."""
        self._pause = min(max(FIRST_PAUSE, 2 * self._pause), LONGEST_PAUSE)
        self._until = time.monotonic() + self._pause

    def answered(self) -> None:
        """All is well."""
        self._pause = self._until = 0.0


class Follower:
    """Sends one journal as it grows; the first failure is told, the others are not."""

    def __init__(self, path: Path, head: Head, tell: Callable[[str], None]) -> None:
        self._path, self._head, self._tell = path, head, tell
        self._replay: Replay | None = None  # connected
        self._breaker = Breaker()
        self.healthy = True

    def turn(self) -> None:
        """Send what is new, unless the store has failed a short while ago."""
        if self._breaker.closed():
            self._try(lambda replay: None)

    def finish(self) -> bool:
        """Send the rest, now or not at all; True if the store has all of it."""
        return self._try(lambda replay: replay.close())

    def _try(self, then: Callable[[Replay], None]) -> bool:
        try:
            self._replay = replay = self._replay or self._open()
            replay.send()
            then(replay)
        except Exception as error:
            self._replay = None  # the next one asks the store anew what it has
            self._breaker.failed()
            if self.healthy:
                self._tell(tracking.failure(error))
            self.healthy = False
            return False
        self._breaker.answered()
        self.healthy = True
        return True

    def _open(self) -> Replay:
        client = runs.connect()
        for _ in waiting(client, before=self._path):
            pass
        replay = Replay(client, self._path, self._head)
        replay.record.running()
        return replay


def main() -> None:
    """Follow the journal of the command line until stdin ends; 0 if the store has all of it."""
    path, tell = Path(sys.argv[1]), _quiet()
    if not (head := journal.head(path)):
        sys.exit(f"{path} is no journal")
    follower, ended = Follower(path, head, tell), threading.Event()
    with suppress(Exception):  # a turn tells what is wrong
        runs.make()  # seconds of work, which nobody should count as the store's
    threading.Thread(target=_watch, args=(follower, ended), daemon=True).start()
    monitor = runs.Monitor() if "--system-metrics" in sys.argv else None
    due = time.monotonic() + SAMPLE
    while not ended.is_set():
        follower.turn()
        if monitor and time.monotonic() >= due:
            _note(path, monitor)
            due += SAMPLE
        ended.wait(POLL)
    sys.exit(not follower.finish())


def _quiet() -> Callable[[str], None]:
    """No signal ends us but our own alarm, nothing is printed but what the result tells."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the work, not for us
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    told = os.dup(1)
    os.dup2(2, 1)

    def tell(line: str) -> None:
        with suppress(OSError):  # nobody listens any more
            os.write(told, f"{line}\n".encode())

    return tell


def _watch(follower: Follower, ended: threading.Event) -> None:
    """When stdin ends, so do we: even out of a call that hangs, by an alarm."""
    sys.stdin.buffer.read()
    ended.set()
    signal.setitimer(signal.ITIMER_REAL, PATIENCE if follower.healthy else LITTLE_PATIENCE)


def _note(path: Path, monitor: Monitor) -> None:
    """The load of the machine, as long as there is ample room for what matters."""
    with suppress(OSError):
        file = os.open(path, os.O_WRONLY | os.O_APPEND)
        try:
            event = Event(time=journal.now(), load=monitor.measure())
            journal.append(file, event, LIMIT // 2)
        finally:
            os.close(file)


if __name__ == "__main__":
    main()
