"""Trainings by several processes, on one machine and on two: killed, frozen, cut off."""

import functools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests import ranks
from tests.faults import NotHere, Outcome, kind

CONFIG: dict[str, Any] = {
    "epochs": 6,
    "mixup": 0.2,
    "cutmix": 1.0,
    "mix_share": 0.5,
    "mix_until": 1.0,
    "ema": 0.9,
    "select": "best",
}
STEPS = 24
POINTS = (1, 4, 5, 11, 18, 23)  # also the first, the last, and an end of an epoch
ENDED = "error[LOST], exit 7; the same bits"


@functools.cache
def expected(processes: int) -> Any:
    """What so many processes learn when nothing happens."""
    with tempfile.TemporaryDirectory() as folder:
        done = ranks.train(Path(folder), processes, **CONFIG)
        assert done.returncode == 0, done.stderr
        return ranks.result(Path(folder))


def same(folder: Path, processes: int) -> None:
    """Assert that what is in `folder` is what `processes` learn."""
    (history, weights), (found, others) = expected(processes), ranks.result(folder)
    assert found == history
    assert all(tensor.equal(others[name]) for name, tensor in weights.items())


def recovers(folder: Path, processes: int, words: str = "RESUMED") -> float:
    """Assert that the same command goes on and ends with the same bits; how long that took."""
    started = time.monotonic()
    again = ranks.train(folder, processes, **CONFIG)
    assert again.returncode == 0 and words in again.stderr, again.stderr
    same(folder, processes)
    return time.monotonic() - started


def told(done: subprocess.CompletedProcess[str], line: str, code: int) -> None:
    """Assert that one line was said, by whoever started the processes."""
    said = [text for text in done.stderr.splitlines() if "step" not in text and text != "FRESH"]
    assert done.returncode == code and len(said) == 1 and said[0].startswith(line), done.stderr


def _killed(processes: int, folder: Path, draws: random.Random) -> Outcome:
    seconds = []
    for number, step in enumerate(POINTS):
        rank, place = number % processes, folder / str(step)
        place.mkdir()
        done = ranks.train(place, processes, f"{rank} SIGKILL {step}", **CONFIG)
        told(done, f"error[LOST] a process ended with SIGKILL; rank {rank};", 7)
        seconds.append(recovers(place, processes, "FRESH" if step == 1 else "RESUMED"))
    return Outcome(f"{ENDED} at {len(POINTS)} of {len(POINTS)} steps", seconds=max(seconds))


for _processes in (2, 3):
    kind("ranks", f"kill -9 of one of {_processes}, at {len(POINTS)} steps", slow=True)(
        functools.partial(_killed, _processes)
    )


@kind("ranks", "an error on one of three", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    done = ranks.train(folder, 3, f"2 error {draws.randrange(2, STEPS)}", **CONFIG)
    told(done, "error[DISK] the disk is gone; rank 2;", 5)
    return Outcome("its own line and exit code; the same bits", seconds=recovers(folder, 3))


@kind("ranks", "one of two freezes", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    os.environ["ABN_TIMEOUT"] = "5"
    try:
        done = ranks.train(folder, 2, f"1 SIGSTOP {draws.randrange(2, STEPS)}", **CONFIG)
    finally:
        del os.environ["ABN_TIMEOUT"]
    told(done, "error[LOST] ", 7)  # by who waited in vain, or of who was ended for that
    return Outcome(ENDED, seconds=recovers(folder, 2))


def _signalled(number: signal.Signals, folder: Path) -> tuple[int, list[str]]:
    """Send a signal to the process that started two others; its end, and who is left."""
    environment = ranks.environment(folder, "", CONFIG | {"epochs": 10_000})
    command = [sys.executable, "-m", "tests.ranks", "2"]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(
        command, cwd=ranks.ROOT, env=environment, stderr=pipe, stdout=quiet, text=True
    ) as process:
        while not list(folder.glob("scratch/state-*.json")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)
        process.wait()
        deadline = time.monotonic() + 30
        while left := _processes_of(folder):
            assert time.monotonic() < deadline, f"left over: {left}"
            time.sleep(0.05)
        assert process.stderr is not None
        return process.returncode, process.stderr.read().splitlines()


def _processes_of(folder: Path) -> list[int]:
    """Those in whose environment `folder` is."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder).encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:  # it is gone, or not ours
            continue
    return found


@kind("ranks", "SIGTERM to who started them", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    code, said = _signalled(signal.SIGTERM, folder)
    assert code == 143 and said[-1].startswith("stopped; the same command goes on"), said
    return Outcome("exit 143, no process left")


@kind("ranks", "kill -9 of who started them", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    code, _ = _signalled(signal.SIGKILL, folder)
    assert code == -signal.SIGKILL
    return Outcome("no process left")


class Hosts:
    """Two hosts in network namespaces of their own, a cable between them."""

    NAMES = "abn-a", "abn-b"
    ADDRESSES = "10.77.0.1", "10.77.0.2"

    def train(self, folder: Path, fault: str = "", timeout: float = 20) -> list[tuple[int, str]]:
        """One process on each; the exit code and the words of both."""
        environment = ranks.environment(folder, fault, CONFIG)
        environment |= {"GLOO_SOCKET_IFNAME": "cable", "ABN_TIMEOUT": str(timeout)}
        started = []
        for rank, name in enumerate(self.NAMES):
            command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run"]
            command += ["--nnodes=2", f"--node-rank={rank}", "--nproc-per-node=1"]
            command += [f"--master-addr={self.ADDRESSES[0]}", "--master-port=29500"]
            started.append(
                subprocess.Popen(
                    [*command, "-m", "tests.ranks"],
                    cwd=ranks.ROOT,
                    env=environment,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
        return [
            (process.returncode, words)
            for process, (_, words) in ((p, p.communicate(timeout=180)) for p in started)
        ]

    def cable(self, state: str) -> None:
        """Pull it out ("down"), or put it back ("up")."""
        _ip("-n", self.NAMES[1], "link", "set", "cable", state)


@contextmanager
def hosts() -> Iterator[Hosts]:
    """Two hosts, while they are needed."""
    if sys.platform != "linux" or not shutil.which("ip"):
        raise NotHere("no ip(8) to make hosts with")
    made = Hosts()
    try:
        for name in made.NAMES:
            _ip("netns", "add", name)
        far = ("peer", "name", "cable", "netns", made.NAMES[1])
        _ip("-n", made.NAMES[0], "link", "add", "cable", "type", "veth", *far)
        for name, address in zip(made.NAMES, made.ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "cable", "up")
        yield made
    finally:
        for name in made.NAMES:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise NotHere(f"no network namespaces: {done.stderr.strip()}")


@kind("ranks", "one of two hosts is killed", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    with hosts() as two:
        ended = two.train(folder, f"1 SIGKILL {draws.randrange(2, STEPS)}")
        assert all(code for code, _ in ended)
        return Outcome("both end; the same bits", seconds=_again(two, folder))


@kind("ranks", "one of two hosts is cut off", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    with hosts() as two:
        ended = two.train(folder, f"1 unplugged {draws.randrange(2, STEPS)}", timeout=5)
        assert all(code for code, _ in ended), ended
        two.cable("up")
        return Outcome("both end; the same bits", seconds=_again(two, folder))


def _again(two: Hosts, folder: Path) -> float:
    started = time.monotonic()
    (code, words), (other, _) = two.train(folder)
    assert (code, other) == (0, 0) and "RESUMED" in words, words
    same(folder, 2)
    return time.monotonic() - started
