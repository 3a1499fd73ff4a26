"""The soak: the whole graph killed at a random time, repaired, and run again, many times.

    python -m tests.soak --times 100 --seed 7

Each trial starts where a random number of stages has run. Three of four are struck at any time of
the next two stages, the fourth while DVC records a stage that has just ended, which is short. Then
come the commands that the doctor prints, and `dvc repro`: it must end with the same bytes.
"""

import argparse
import collections
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from tests import graph
from tests.graph import STAGES, Run

SIGNALS = {signal.SIGKILL: 16, signal.SIGTERM: 3, signal.SIGINT: 1}  # how often each, of 20
TRIES = 20  # until a signal comes before the run is over
RECORDING = 1.0  # seconds that DVC takes to record a stage, about


class Trial(NamedTuple):
    """A signal and what came of it."""

    fault: str  # "SIGKILL for dvc"
    stage: str  # the stage that was running
    ended: str  # how the next run went; "repaired" if the doctor printed commands
    seconds: float  # of the repair and the next run


def trial(folder: Path, draws: random.Random) -> Trial:
    """One trial in `folder`; AssertionError where the result is not what it should be."""
    for number in range(TRIES):
        done = draws.randrange(len(STAGES))
        run = Run(graph.project(folder / str(number), done))
        wait(run, done, draws)
        stage, fault = run.stage(), strike(run, draws)
        if run.end() != 0:
            return recover(folder / str(number) / "project", fault, stage)
    raise AssertionError(f"no signal came in time, {TRIES} times")


def wait(run: Run, done: int, draws: random.Random) -> None:
    """Wait for the moment to strike."""
    if draws.random() < 0.25:
        run.until(run.stage)
        run.until(lambda: not run.stage())
        time.sleep(draws.uniform(0, RECORDING))
    else:
        moment = draws.uniform(0, graph.seconds(done, min(done + 2, len(STAGES))))
        run.until(lambda: time.monotonic() - run.started >= moment)


def strike(run: Run, draws: random.Random) -> str:
    """Send a drawn signal to DVC, to the stage or to all; in words."""
    (sent,) = draws.choices(list(SIGNALS), list(SIGNALS.values()))
    parts = run.parts()
    victim = draws.choice([*parts, "all"])
    if sent == signal.SIGINT:
        victim = "all"  # as a terminal does; DVC alone ignores it while a stage runs
    with suppress(psutil.NoSuchProcess, ProcessLookupError):  # then the run ends well
        if victim == "all":
            os.killpg(run.process.pid, sent)
        else:
            parts[victim].send_signal(sent)
    return f"{sent.name} for {'the stage' if victim in STAGES else victim}"


def recover(root: Path, fault: str, stage: str) -> Trial:
    """Repair, run the same command, and compare."""
    started = time.monotonic()
    text = graph.finish(root)
    assert not stage or f"Running stage '{stage}'" in text, f"it did nothing:\n{text}"
    resumed = re.search(r"RESUMED|FRESH", text)
    ended = f"train {resumed[0]}" if resumed else "no training"
    repaired = "repaired, " if "; run: " in text else ""
    return Trial(fault, stage or "between stages", repaired + ended, time.monotonic() - started)


def main(times: int, seed: int) -> int:
    """Print every trial and the sums; the number of failures."""
    print(f"seed {seed}; an uninterrupted run takes {graph.seconds(0):.0f} s", flush=True)
    trials, failures = [], 0
    for number in range(1, times + 1):
        folder = Path(tempfile.mkdtemp(prefix="soak-"))
        try:
            trials.append(trial(folder, random.Random(f"{seed} {number}")))
            shutil.rmtree(folder)
            print(f"{number:4}  {trials[-1]}", flush=True)
        except Exception as error:
            failures += 1
            print(f"{number:4}  FAILED in {folder}: {type(error).__name__}: {error}", flush=True)
    print(f"\n{len(trials)} of {times} ended with the same bytes and left nothing behind")
    for name in ("fault", "stage", "ended"):
        counts = collections.Counter(getattr(trial, name) for trial in trials)
        print(f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.most_common()))
    if trials:
        print(f"seconds to recover, median: {statistics.median(t.seconds for t in trials):.1f}")
    return failures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    sys.exit(bool(main(options.times, options.seed)))
