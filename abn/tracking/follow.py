"""The process beside a stage that mirrors files to MLflow while the stage runs.

The stage waits for a store at its end only, and not long. What is late arrives with the next stage
or `abn sync`; only a store that refuses or does not answer is a warning.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import DEVNULL, PIPE

from abn.experiments import dvc
from abn.runtime.progress import say
from abn.tracking import client, mirror, outbox

EVERY, PATIENCE = 2.0, 10.0  # seconds between two looks at the files; for the last look
MAKING = 60.0  # seconds more, for a new database
FINISHED, STOPPED = 12.0, 5.0  # seconds that a stage waits at its end; if it was stopped


@contextmanager
def following() -> Iterator[None]:
    """Mirror to MLflow while a stage runs in the current folder; also a decorator."""
    child, patience = _start() if outbox.enabled() else None, STOPPED
    listener = threading.Thread(target=_listen, args=(child,), daemon=True)
    listener.start()
    try:
        yield
        patience = FINISHED
    finally:
        if child and child.stdin:
            child.stdin.close()
            listener.join(patience)  # if it is late, it ends soon, and alone


def _start() -> "subprocess.Popen[str] | None":
    """A process that ends after this one, however that ends; its lines are warnings here."""
    command = [sys.executable, "-m", "abn.tracking.follow", str(time.time())]
    try:  # in a session of its own: Ctrl-C is not meant for it
        return subprocess.Popen(
            command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        say(f"tracking: not started ({error.strerror}); `abn sync` sends everything later")
        return None


def _listen(child: "subprocess.Popen[str] | None") -> None:
    for line in (child and child.stdout) or ():
        say(f"tracking: {line.rstrip()}")


class Follower:
    """Looks at the files of `folder`, in which a stage runs since `since` (seconds)."""

    def __init__(self, folder: Path, since: float) -> None:
        self.folder, self.since = folder, since
        self.ended = threading.Event()  # the stage
        self.failures = 0  # in a row
        self.store: client.Store | None = None

    def look(self) -> None:
        """Bring what is new. A store may fail once, but not twice in a row and not at the end."""
        last = self.ended.is_set()
        try:
            self.store = self.store or client.Store()
            list(self.store.update(mirror.records(self.folder, self.since)))
            self.failures = 0
        except Exception as error:
            self.store, self.failures = None, self.failures + 1
            if self.failures == 2 or (last and self.failures == 1):
                print(client.failure(error), flush=True)

    def end_with_stdin(self) -> None:
        """Once stdin ends, end this process in time, even out of a call that hangs.

        A new database is finished first: half of one would be left behind, and be of no use.
        """
        sys.stdin.buffer.read()
        self.ended.set()
        time.sleep(PATIENCE)
        client.making.acquire(timeout=MAKING)
        os._exit(1)


def main() -> None:
    """Follow a stage in the current folder since the time of the command line, until stdin ends."""
    os.nice(10)  # the stage comes first
    follower = Follower(Path.cwd(), float(sys.argv[1]))
    os.chdir(dvc.root())  # where the relative address of a store begins
    threading.Thread(target=follower.end_with_stdin, daemon=True).start()
    while not follower.ended.is_set():
        follower.look()
        follower.ended.wait(EVERY)
    follower.look()


if __name__ == "__main__":
    main()
