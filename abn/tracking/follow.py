"""The process beside a stage that mirrors files to MLflow while the stage runs.

The stage waits for a store at its end only, and not long. What is late arrives with the next stage
or `abn sync`; only a store that refuses or does not answer is a warning.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from abn.experiments import dvc
from abn.experiments.present import Present
from abn.tracking import client, mirror, outbox

EVERY, AFTER_FAILURE = 2.0, 30.0  # seconds between two looks at the files
PATIENCE, LITTLE = 10.0, 2.0  # seconds for the last look; with a store that has failed
FINISHED, STOPPED = 12.0, 5.0  # seconds that a stage waits at its end; if it was stopped
HANGS = 5.0  # seconds without an answer


@contextmanager
def following() -> Iterator[None]:
    """Mirror to MLflow while a stage runs in the current folder; also a decorator."""
    patience, child = STOPPED, _start() if outbox.enabled() else None
    listener = threading.Thread(target=_listen, args=(child,), daemon=True)
    listener.start()
    try:
        yield
        patience = FINISHED
    finally:
        if child and child.stdin:
            child.stdin.close()
            listener.join(patience)
            child.poll()  # if it is late, it ends soon, and alone


def _start() -> "subprocess.Popen[str] | None":
    """A process that ends after this one, however that ends; its lines are warnings here."""
    command = [sys.executable, "-P", "-m", "abn.tracking.follow", str(Path.cwd()), str(time.time())]
    sources = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    try:
        return subprocess.Popen(
            command,
            cwd=dvc.root(),  # where the relative address of a store begins
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sources)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not meant for it
            text=True,
        )
    except OSError as error:
        outbox.warn(f"cannot start ({error}); `abn sync` sends everything later")
        return None


def _listen(child: "subprocess.Popen[str] | None") -> None:
    for line in (child and child.stdout) or ():
        outbox.warn(line.rstrip("\n"))


class Follower:
    """Looks at the files of `folder`, in which a stage runs since `since` (seconds)."""

    def __init__(self, folder: Path, since: float) -> None:
        self.folder, self.since = folder, since
        self.ended = threading.Event()  # the stage
        self.failures = 0  # in a row
        self.asked = float("inf")  # when the store was asked first, or answered last
        self.sent: set[str] = set()
        self.store: client.Store | None = None

    def look(self) -> None:
        """Bring what is new. A store may fail once, but not twice in a row and not at the end."""
        last = self.ended.is_set()
        try:
            client.prepare()
            self.asked = time.monotonic()
            self.store = self.store or client.Store()
            here = Present(self.folder, self.since)
            for _ in self.store.update(mirror.records(here), self.sent):
                self.asked = time.monotonic()
                if self.ended.is_set() and not last:
                    return  # to the last look, which begins with what is most urgent
            self.failures = 0
        except Exception as error:
            self.store, self.failures = None, self.failures + 1
            if last or self.failures > 1:
                _report(client.reason(error))

    def end_with_stdin(self) -> None:
        """Once stdin ends, end this process in time, even out of a call that hangs."""
        sys.stdin.buffer.read()
        self.ended.set()
        time.sleep(LITTLE if self.failures else PATIENCE)
        if client.address().startswith("http") and time.monotonic() - self.asked > HANGS:
            _report("no answer")
        os._exit(1)


def _report(why: str) -> None:
    with suppress(OSError):  # the stage is gone
        print(f"{client.shown()} failed ({why}); `abn sync` sends what it lacks", flush=True)


def main() -> None:
    """Follow a stage in the folder and since the time of the command line, until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the stage
        signal.signal(number, signal.SIG_IGN)
    os.nice(10)  # the stage comes first
    follower = Follower(Path(sys.argv[1]), float(sys.argv[2]))
    threading.Thread(target=follower.end_with_stdin, daemon=True).start()
    while not follower.ended.is_set():
        follower.look()
        follower.ended.wait(AFTER_FAILURE if follower.failures > 1 else EVERY)
    follower.look()


if __name__ == "__main__":
    main()
