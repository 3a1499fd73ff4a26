"""Stopping on real signals."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from abn.runtime.signals import SIGNALS, GracefulStop, Stopped

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """No signal is ignored, as under nohup or in the background of a shell it may be."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_at_once_outside_a_deferred_block(number: signal.Signals) -> None:
    with pytest.raises(Stopped), GracefulStop().install():
        os.kill(os.getpid(), number)
        pytest.fail("it went on")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_deferred_block_is_finished_first(number: signal.Signals) -> None:
    done = []
    with pytest.raises(Stopped), GracefulStop().install() as stop:
        with stop.deferred():
            with stop.deferred():
                os.kill(os.getpid(), number)
            done.append("all of it")
        pytest.fail("it went on")
    assert done == ["all of it"]


def test_an_error_in_a_deferred_block_is_not_hidden_by_a_signal() -> None:
    with (
        pytest.raises(ValueError, match="mine"),
        GracefulStop().install() as stop,
        stop.deferred(),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("mine")


def test_ignored_signals_are_noted_only() -> None:
    with GracefulStop(ignore=True).install() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with stop.deferred():
            pass
    assert stop.requested


def test_the_former_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with GracefulStop().install():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_signals_that_the_process_ignores_stay_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with GracefulStop().install() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


STUBBORN = """
import time
from abn.runtime.signals import GracefulStop
stop = GracefulStop()
with stop.install(), stop.deferred():
    print("held", flush=True)
    while True:
        time.sleep(0.01)
"""


def test_the_second_signal_ends_the_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STUBBORN], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
        process.terminate()
        assert process.wait(10) == -signal.SIGTERM


PARENT = """
import subprocess, sys, time
child = "from abn.runtime import signals; signals.end_with_parent(); print('ready', flush=True);"
child += "import time; time.sleep(600)"
started = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE, text=True)
started.stdout.readline()
print(started.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child")
def test_no_orphan_outlives_a_parent_that_was_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 10
    while alive(child):
        assert time.monotonic() < until, "the child outlived its parent"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process runs: one that is dead but not yet waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


WRITES = """
import signal, sys
from abn.runtime import signals
signals.stop_where_nobody_reads()
{handler}
for stream in (sys.stdout, sys.stderr):
    print("one", file=stream, flush=True)
sys.stdin.readline()
for stream in (sys.stdout, sys.stderr):
    print("two", file=stream, flush=True)
"""
HANDLER = """
def stop(number, frame):
    open(sys.argv[1], "a").write("asked to stop\\n")
signal.signal(signal.SIGTERM, stop)
"""


@pytest.mark.parametrize(
    ("handler", "code", "asked"), [("", 128 + signal.SIGPIPE, 0), (HANDLER, 0, 2)]
)
def test_where_nobody_reads_the_process_is_asked_to_stop_and_writes_no_error(
    tmp_path: Path, handler: str, code: int, asked: int
) -> None:
    note = tmp_path / "note"
    note.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES.format(handler=handler), str(note)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin and process.stdout and process.stderr
    assert (process.stdout.readline(), process.stderr.readline()) == ("one\n", "one\n")
    process.stdout.close()
    process.stderr.close()
    process.stdin.close()
    assert process.wait(60) == code  # without a handler it ends at the first line
    assert note.read_text() == asked * "asked to stop\n"
