"""The process beside the stages, which mirrors files to MLflow while they run.

    python -m abn.tracking.follower CONNECTION [LISTENER]

Both are numbers of open sockets: the connection to the stage that has started this process, and one
at which later stages call. A stage first says who it is, in a line of JSON (abn.tracking.follow),
and ends its side of the connection when it ends. After a last look at its files the other side ends
too. What comes before that are warnings.
"""

import json
import os
import select
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path

from abn.experiments import dvc
from abn.tracking import client, mirror

EVERY, PATIENCE = 2.0, 10.0  # seconds between two looks at the files; for the last look
MAKING = 60.0  # seconds more, for a new database
HELLO = 2.0  # seconds, for a stage to say who it is
STAYS = 10.0  # seconds without a stage, before the process ends


class Stage:
    """The stage at the other end of `connection`; any error means that there is none."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        connection.settimeout(HELLO)
        hello = json.loads(connection.makefile("rb").readline())
        connection.settimeout(None)
        self.folder, self.since = Path(hello["folder"]), float(hello["since"])
        self.experiment: dict[str, str] = hello["experiment"]
        self.failures = 0  # of the store, in a row
        self.ended, self.answered = threading.Event(), threading.Event()

    def warn(self, line: str) -> None:
        """Have the stage say `line`, if it still listens."""
        with suppress(OSError):
            self.connection.sendall(f"{line}\n".encode(errors="backslashreplace"))

    def answer(self) -> None:
        """The last look is over."""
        self.answered.set()
        self.connection.close()

    def end_in_time(self) -> None:
        """Once the stage has ended, end this process in time, even out of a call that hangs.

        A new database is finished first: half of one would be left behind, and be of no use.
        """
        with suppress(OSError):
            self.connection.recv(1, socket.MSG_PEEK)
        self.ended.set()
        if not self.answered.wait(PATIENCE):
            client.making.acquire(timeout=MAKING)
            if self.answered.is_set():
                client.making.release()
            else:
                os._exit(1)


class Follower:
    """Looks at the files of stages, which call at `listener`; a store stays open between them."""

    def __init__(self, listener: socket.socket | None = None) -> None:
        self.listener, self.stages = listener, list[Stage]()
        self._store: client.Store | None = None

    def add(self, connection: socket.socket) -> None:
        """Add the stage at the other end, if one is there."""
        try:
            stage = Stage(connection)
        except Exception:  # whatever it said
            connection.close()
        else:
            threading.Thread(target=stage.end_in_time, daemon=True).start()
            self.stages.append(stage)

    def serve(self) -> None:
        """Look at the files until there is no stage, and for a while no other."""
        while self.stages:
            for stage in [*self.stages]:
                self.look(stage)
            self.wait(EVERY if self.stages else STAYS)

    def wait(self, seconds: float) -> None:
        """Until a stage ends or another one calls, but no longer."""
        watched = [stage.connection for stage in self.stages]
        watched += [self.listener] if self.listener else []
        ready = select.select(watched, [], [], seconds)[0] if watched else []
        if self.listener and self.listener in ready:
            self.add(self.listener.accept()[0])

    def look(self, stage: Stage) -> None:
        """Bring what is new. A store may fail once, but not twice in a row and not at the end."""
        last = stage.ended.is_set()
        try:
            self._store = self._store or client.Store()
            about = stage.folder, stage.since, stage.experiment
            list(self._store.update(mirror.records(*about, self._store.has)))
            stage.failures = 0
        except Exception as error:
            self._store, stage.failures = None, stage.failures + 1
            if stage.failures == 2 or (last and stage.failures == 1):
                stage.warn(str(client.failure(error)))
        if last:
            self.stages.remove(stage)
            stage.answer()


def main() -> None:
    """Serve the stage that has started this process, and those that come after it."""
    os.nice(10)  # the stages come first
    connection, *listeners = [socket.socket(fileno=int(number)) for number in sys.argv[1:]]
    # Without `..`: the folder of an experiment in the queue is gone when the address is removed.
    addresses = [Path(each.getsockname()).resolve() for each in listeners]
    os.chdir(dvc.root())  # where the relative address of a store begins
    follower = Follower(*listeners)
    follower.add(connection)
    follower.serve()
    for address in addresses:
        address.unlink(missing_ok=True)
    follower.wait(0)  # a stage may have called until now
    follower.serve()


if __name__ == "__main__":
    main()
