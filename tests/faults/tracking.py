"""MLflow's store fails, or dies, or lies; or the one who tells it is killed."""

import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from abn import runs, tracking
from tests import tracked
from tests.faults import NotHere, Outcome, kind
from tests.tracked import Door, curve, followed, place, send, stored, training, waiting

EPOCHS = 6
ALL = [(epoch, 10.0 - epoch) for epoch in range(EPOCHS)]


def whole(key: tuple[str, str], status: str = "FINISHED") -> None:
    """All that was told is there once, in one run, and no journal is left."""
    assert curve("loss", key) == ALL
    assert [run.info.status for run in stored(key)] == [status]
    assert waiting() == []


def told(run: tracking.Run, first: int, last: int) -> None:
    """Epochs, none of which takes long to tell."""
    for epoch in range(first, last):
        started = time.perf_counter()
        run.log({"loss": 10.0 - epoch}, step=epoch)
        assert time.perf_counter() - started < 1


@contextmanager
def door(folder: Path) -> Iterator[Door]:
    """A store that can be barred."""
    made = Door()
    try:
        with place(folder, made.address):
            yield made
    finally:
        made.close()


def barred(folder: Path, draws: random.Random, fault: str) -> Outcome:
    """The door is barred from some epoch on; what was told arrives once it is open again."""
    key, when = ("weights", f"{fault} {folder.name}"), draws.randrange(EPOCHS)
    with door(folder) as way:
        with followed(key) as (run, follower, lines):
            told(run, 0, when)
            if when:
                follower.turn()
            way.fault = fault
            impatient = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "1", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
            os.environ |= impatient
            told(run, when, EPOCHS)
            follower.turn()
            follower.turn()  # the breaker is open
        assert not follower.finish() and len(lines) == 1 and way.address in lines[0]
        os.environ |= {name: runs.DEFAULTS[name] for name in impatient}
        way.fault, started = "", time.perf_counter()
        way.mended.set()
        send()
        whole(key)
    return Outcome("one line, sent later", seconds=time.perf_counter() - started)


@kind("tracking", "server hangs")
def hangs(folder: Path, draws: random.Random) -> Outcome:
    return barred(folder, draws, "hangs")


@kind("tracking", "server answers 500")
def errors(folder: Path, draws: random.Random) -> Outcome:
    return barred(folder, draws, "500")


@kind("tracking", "server answers with a hotel's page")
def garbage(folder: Path, draws: random.Random) -> Outcome:
    return barred(folder, draws, "garbage")


@kind("tracking", "server obeys, its answers are lost")
def deaf(folder: Path, draws: random.Random) -> Outcome:
    return barred(folder, draws, "deaf")


@kind("tracking", "server answers late")
def late(folder: Path, draws: random.Random) -> Outcome:
    key = ("weights", f"late {folder.name}")
    with door(folder) as way:
        way.fault = "late"
        with followed(key) as (run, follower, lines):
            told(run, 0, EPOCHS)
            follower.turn()
        assert follower.finish() and lines == []
        whole(key)
    return Outcome("no line, nobody waited")


@kind("tracking", "server down at the start")
def down(folder: Path, draws: random.Random) -> Outcome:
    with place(folder, f"http://127.0.0.1:{tracked.free_port()}"):
        work = training(EPOCHS)
        out, err = work.communicate()
        assert (work.returncode, out) == (0, "told\n")
        assert err.count("\n") == 1 and "Connection refused" in err and "stages.sync" in err
        (journal,) = waiting()
        assert len(journal.read_text().split()) == 1 + EPOCHS + 1  # head, epochs, end
    return Outcome("one line, all in the journal")


@kind("tracking", "server killed half way, restarted")
def killed_server(folder: Path, draws: random.Random) -> Outcome:
    server = tracked.server()
    when = draws.randrange(1, EPOCHS)
    with place(folder, f"http://127.0.0.1:{server.port}"):
        key = ("weights", f"killed {folder.name}")
        with followed(key) as (run, follower, lines):
            told(run, 0, when)
            follower.turn()
            server.kill()
            told(run, when, EPOCHS)
            follower.turn()
        assert not follower.finish() and len(lines) == 1
        started = time.perf_counter()
        server.start()
        send()
        whole(key)
    return Outcome("one line, sent later", seconds=time.perf_counter() - started)


@kind("tracking", "database locked by another process")
def locked(folder: Path, draws: random.Random) -> Outcome:
    """MLflow waits 20 s for a lock, deep in C: only an alarm ends that."""
    with place(folder), tracked.unsent():
        with tracking.run(tracked.KEY, "resnet18-s0") as run:
            told(run, 0, EPOCHS)
        (path,) = waiting()
        with sqlite3.connect(folder / "mlflow.db") as holder:
            holder.execute("begin exclusive")
            code = "from abn import replay; replay.PATIENCE = 0.5; replay.main()"
            words = [sys.executable, "-c", code, str(path)]
            done = subprocess.run(words, stdin=subprocess.DEVNULL, timeout=60)
            assert done.returncode == -signal.SIGALRM
        holder.close()
        started = time.perf_counter()
        send()
        whole(tracked.KEY)
    return Outcome("given up in time, sent later", seconds=time.perf_counter() - started)


@kind("tracking", "no room while the database is made")
def half_made(folder: Path, draws: random.Random) -> Outcome:
    """MLflow alone leaves half a database then, which may never open again."""
    limit, (soft, hard) = (
        draws.randrange(10_000, 900_000),
        resource.getrlimit(resource.RLIMIT_FSIZE),
    )
    with place(folder, fresh=True):
        with followed() as (run, follower, lines):
            told(run, 0, EPOCHS)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                follower.turn()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert len(lines) == 1 and not (folder / "mlflow.db").exists()
        started = time.perf_counter()
        send()
        whole(tracked.KEY)
    return Outcome("one line, sent later", seconds=time.perf_counter() - started)


@kind("tracking", "database on a full, then on a read-only disk")
def full(folder: Path, draws: random.Random) -> Outcome:
    """In a mount namespace of its own."""
    disk = folder / "disk"
    disk.mkdir()
    shutil.copy(tracked.tables(), folder / "tables.db")
    code = f"from tests.faults import tracking; tracking.on_disk({str(folder)!r}, {str(disk)!r})"
    mounted = f'mount -t tmpfs -o size=2m none {disk} && exec "$0" -c "$1"'
    words = ["unshare", "--mount", "bash", "-c", mounted, sys.executable, code]
    done = subprocess.run(words, capture_output=True, text=True)
    if "permitted" in done.stderr or "denied" in done.stderr:
        raise NotHere("mounting needs root")
    assert done.returncode == 0, done.stderr
    return Outcome("one line, sent later", seconds=float(done.stdout))


def on_disk(folder: str, disk: str) -> None:
    """Fill the disk, make it read-only, mend it; print the seconds from then on."""
    filling = Path(disk, "filling")
    with place(Path(folder), f"sqlite:///{disk}/mlflow.db"):
        shutil.copy(Path(folder, "tables.db"), Path(disk, "mlflow.db"))
        with followed() as (run, follower, lines):
            follower.turn()
            with suppress_full(), filling.open("wb", buffering=0) as file:
                while file.write(b"x" * 4096):
                    pass
            for epoch in range(EPOCHS):
                run.log({"loss": 10.0 - epoch} | {f"k{i}": 1.0 for i in range(200)}, step=epoch)
            follower.turn()
            assert len(lines) == 1 and "full" in lines[0], lines
            filling.unlink()
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            assert not follower.finish()
        subprocess.run(["mount", "-o", "remount,rw,size=9m", disk], check=True)
        started = time.perf_counter()
        send()
        whole(tracked.KEY)
    print(time.perf_counter() - started)


@contextmanager
def suppress_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        assert "No space" in str(error)


@kind("tracking", "database overwritten")
def corrupt(folder: Path, draws: random.Random) -> Outcome:
    with place(folder):
        database = folder / "mlflow.db"
        database.write_bytes(draws.randbytes(draws.randrange(1, 100_000)))
        with followed() as (run, follower, lines):
            told(run, 0, EPOCHS)
            follower.turn()
        assert not follower.finish() and len(lines) == 1
        database.unlink()
        shutil.copy(tracked.tables(), database)
        started = time.perf_counter()
        send()
        whole(tracked.KEY)
    return Outcome("one line, sent later", seconds=time.perf_counter() - started)


@kind("tracking", "journal torn by a crash, training resumed")
def torn(folder: Path, draws: random.Random) -> Outcome:
    with place(folder), tracked.unsent():
        with tracking.run(tracked.KEY, "resnet18-s0") as run:
            told(run, 0, EPOCHS - 2)
        (path,) = waiting()
        data = path.read_bytes()
        head = data.index(b"}\n") + 2
        cut = draws.randrange(head, len(data))
        path.write_bytes(data[:cut] + draws.randbytes(draws.randrange(3)))
        with tracking.run(tracked.KEY, "resnet18-s0") as run:
            told(run, 0, EPOCHS)  # at its end a training tells all its rows
        started = time.perf_counter()
        send()
        whole(tracked.KEY)
    return Outcome("one run, each step once", seconds=time.perf_counter() - started)


@kind("tracking", "training killed, training resumed")
def killed_work(folder: Path, draws: random.Random) -> Outcome:
    """What sends outlives the training, and says that it was killed."""
    with place(folder):
        work = training(EPOCHS - 2, pause=60)
        other = tracked.sender(work)
        time.sleep(draws.uniform(0, 2))
        work.kill()
        started = time.perf_counter()
        work.communicate()
        tracked.gone(other)
        assert [run.info.status for run in stored()] == ["KILLED"]
        assert curve("loss") == ALL[: EPOCHS - 2] and waiting() == []
        seconds = time.perf_counter() - started
        with followed() as (run, follower, _):
            told(run, 0, EPOCHS)
        assert follower.finish()
        whole(tracked.KEY)
    return Outcome("KILLED, then one run, each step once", seconds=seconds)


@kind("tracking", "training and its sender killed")
def killed_both(folder: Path, draws: random.Random) -> Outcome:
    with place(folder):
        work = training(EPOCHS, pause=60)
        other = tracked.sender(work)
        time.sleep(draws.uniform(0, 2))
        os.kill(other, signal.SIGKILL)
        work.kill()
        work.communicate()
        tracked.gone(other)
        started = time.perf_counter()
        send()
        whole(tracked.KEY, "KILLED")
    return Outcome("sent later, KILLED", seconds=time.perf_counter() - started)


@kind("tracking", "sender killed")
def killed_sender(folder: Path, draws: random.Random) -> Outcome:
    with place(folder):
        work = training(EPOCHS, pause=0.5)
        os.kill(tracked.sender(work), signal.SIGKILL)
        _, err = work.communicate()
        assert work.returncode == 0 and err.count("\n") == 1 and "stages.sync" in err
        started = time.perf_counter()
        send()
        whole(tracked.KEY)
    return Outcome("one line, sent later", seconds=time.perf_counter() - started)


@kind("tracking", "four processes at once on no database")
def first_use(folder: Path, draws: random.Random) -> Outcome:
    with place(folder, fresh=True):
        works = [training(EPOCHS, key=str(number)) for number in range(4)]
        assert [work.communicate()[1] for work in works] == [""] * 4
        for number in range(4):
            whole(("weights", str(number)))
    return Outcome("four whole runs")
