"""The soak: the whole graph struck at a random time, then the same command again, many times.

Every trial starts where a random number of stages is done. Three of four are struck at any time of
the next two; the fourth while DVC records a stage that has just ended, which is short.
"""

import collections
import os
import random
import re
import shutil
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.faults import _graph
from tests.faults._graph import COMMAND, STAGES, Run

SIGNALS = {signal.SIGKILL: 16, signal.SIGTERM: 3, signal.SIGINT: 1}  # how often each, of 20
TRIES = 20  # until a fault comes in time
RECORDING = 1.0  # seconds that DVC takes to record a stage, about


class Trial(NamedTuple):
    """A fault and what came of it."""

    number: int
    fault: str = "no fault"  # "SIGKILL for dvc"
    struck: str = ""  # the stage that was at work
    when: str = ""
    again: str = ""  # what the same command did
    seconds: float = 0.0
    plain: bool = True  # whether `dvc repro` alone would have gone on
    failure: str = ""

    def line(self) -> str:
        ended = self.failure or f"the same bytes ({self.again}) in {self.seconds:.1f} s"
        place = f" in {self.struck}" if self.struck else ""
        return f"{self.number:4}  {self.when}, {self.fault}{place}: {ended}"


def soak(trials: int, seed: int, jobs: int) -> int:
    """Print every trial and the sums; how many failed."""
    started, done = time.monotonic(), []
    print(f"seed {seed}; {COMMAND}")
    full = _graph.seconds(0)
    print(f"an uninterrupted run takes {full:.0f} s and writes {len(_graph.expected())} files")
    with ThreadPoolExecutor(jobs) as pool:
        for trial in pool.map(lambda number: attempt(number, seed), range(1, trials + 1)):
            print(trial.line(), flush=True)
            done.append(trial)
    for line in summary(done):
        print(line)
    print(f"{(time.monotonic() - started) / 60:.0f} minutes")
    return sum(bool(trial.failure) for trial in done)


def summary(trials: list[Trial]) -> Iterator[str]:
    well = [trial for trial in trials if not trial.failure]
    yield f"\n{len(well)} of {len(trials)} ended with the same bytes and left nothing behind"
    yield f"{sum(not trial.plain for trial in trials)} would not have gone on by `dvc repro` alone"
    for name in ("fault", "struck", "again"):
        counts = collections.Counter(getattr(trial, name) or "between stages" for trial in trials)
        yield f"{name}: " + ", ".join(f"{count} {what}" for what, count in counts.most_common())
    if well:
        yield f"seconds to recover, median: {statistics.median(t.seconds for t in well):.1f}"


def attempt(number: int, seed: int) -> Trial:
    """One trial, in a folder that stays where it failed."""
    draws, folder = random.Random(f"{seed} {number}"), Path(tempfile.mkdtemp(prefix="soak-"))
    trial = Trial(number, failure=f"no fault came in time, {TRIES} times")
    try:
        for _ in range(TRIES):
            shutil.rmtree(folder)
            folder.mkdir()
            if found := struck(number, folder, draws):
                trial = found
                trial = recovered(found, folder / "project")
                shutil.rmtree(folder)
                break
    except Exception as error:
        return trial._replace(failure=f"{type(error).__name__} in {folder}: {error}")
    return trial


def struck(number: int, folder: Path, draws: random.Random) -> Trial | None:
    """Start the command and strike it; None where it was over before."""
    done = draws.randrange(len(STAGES))
    run = Run(_graph.project(folder, done))
    when = _wait(run, done, draws)
    parts = run.parts()
    fault = _strike(run, parts, draws) if parts else ""
    if run.end() == 0:
        return None
    stage = next((part for part in parts if part in STAGES), "")
    return Trial(number, fault, stage, f"{done} stages done, {when}")


def _wait(run: Run, done: int, draws: random.Random) -> str:
    """Wait for the moment; which it was, in words."""
    if draws.random() < 0.25:
        run.until(run.stage)
        run.until(lambda: not run.stage())
        after = draws.uniform(0, RECORDING)
        time.sleep(after)
        return f"{after:.2f} s after the next"
    at = draws.uniform(0, _graph.seconds(done, min(done + 2, len(STAGES))))
    run.until(lambda: time.monotonic() - run.started >= at)
    return f"after {at:.1f} s"


def _strike(run: Run, parts: dict[str, psutil.Process], draws: random.Random) -> str:
    """Send a drawn signal to one that is at work, or to all; which, in words."""
    sent = draws.choices(list(SIGNALS), list(SIGNALS.values()))[0]
    victim = draws.choice([*parts, "all"])
    if sent == signal.SIGINT:
        victim = "all"  # as a terminal does; DVC alone ignores it while a stage runs
    with suppress(psutil.NoSuchProcess, ProcessLookupError):  # then the run ends well
        if victim == "all":
            os.killpg(run.process.pid, sent)
        else:
            parts[victim].send_signal(sent)
    role = "the stage" if victim in STAGES else victim
    return f"{sent.name} for {role}"


def recovered(trial: Trial, root: Path) -> Trial:
    """Give the same command again and assert that nothing can be seen of the fault."""
    plain = _goes_on(root)
    started = time.monotonic()
    run = _graph.heal(root)
    seconds = time.monotonic() - started
    if trial.struck:
        assert f"Running stage '{trial.struck}'" in run.text, f"it did nothing:\n{run.text}"
    return trial._replace(again=_did(run.text), seconds=seconds, plain=plain)


def _goes_on(root: Path) -> bool:
    """Whether `dvc repro` alone would go on; tried, in a copy, where the doctor finds something."""
    found = Run(root, "python -m abn.cli.doctor")
    if found.end() == 0 or not re.search(r"not whole|\.git", found.text):
        return True
    copy = root.parent / "plain" / "project"
    shutil.copytree(root, copy, symlinks=True)
    alone = Run(copy, "dvc repro")
    return alone.end() == 0


def _did(text: str) -> str:
    mended = "mended, " if "mended by" in text else ""
    resumed = re.search(r"RESUMED|FRESH", text)
    return mended + (f"train {resumed[0]}" if resumed else "no training")
