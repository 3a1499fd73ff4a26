"""`dvc exp run`, its `--temp` and its queue, killed with -9 at random moments, and run again.

    python -m tests.kills --times 30 --seed 1              # 30 of each, one of each in turn
    python -m tests.kills --times 30 --seed 1 --mode temp

Trial N starts where N % 5 stages have run and are committed, beside an edit that is not. All
processes of the command get kill -9 at a random moment up to the end of the next stage, or of the
experiment. Then the same command is given again, with what docs/reliability.md asks for. It must
end with the bytes of a `dvc repro` that nothing happened to. The stages that had not run before the
kill are in no cache. Each outcome is saved as it comes, in benchmarks/results/kills.json.
"""

import argparse
import collections
import functools
import itertools
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from benchmarks import measure
from tests import graph
from tests.graph import STAGES, Run, output

SETTING = "-S train.lr=0.03"  # as it is already, so that the bytes are the expected ones
NAME = "lucky"  # of what is queued: `dvc queue` asks for a name
COMMANDS = {
    "run": f"dvc exp run {SETTING}",
    "temp": f"dvc exp run --temp {SETTING}",
    "queue": f"dvc exp run --queue -n {NAME} {SETTING} && dvc queue start",
}
EDIT = "a change by hand\n"
SAME = "same bytes"
TRIES = 20  # until the kill comes before the command is over
PATIENCE = 3600.0  # seconds for a command, also beside other work


class Trial(NamedTuple):
    """A kill and what came of it."""

    mode: str
    number: int
    moment: float  # seconds after the command was given
    stage: str  # that was running
    needed: list[str]  # commands without which the same one did not do its work
    left: list[str]  # commands that remove what the killed ones had left
    result: str  # SAME, or what was wrong


def committed(folder: Path, done: int) -> Path:
    """A project in which `done` stages have run and are committed, with an edit that is not."""
    root = graph.project(folder, done)
    output(root, "git add -A && git commit -qm packed --allow-empty")
    with (root / "README.md").open("a") as readme:
        readme.write(EDIT)
    return root


def experiments(root: Path) -> list[str]:
    """The commits of the recorded experiments."""
    return [ref.read_text().strip() for ref in sorted(root.glob(".git/refs/exps/??/*/*"))]


@functools.cache
def around(mode: str) -> float:
    """Seconds that an undisturbed experiment takes beside its stage; its bytes are checked."""
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        root = committed(Path(folder), len(STAGES) - 1)
        run = Run(root, COMMANDS[mode])
        assert run.until(lambda: experiments(root), pause=0.1), run.text
        seconds = time.monotonic() - run.started
        run.end()
        confirm(root, mode)
    return max(0.0, seconds - graph.seconds(len(STAGES) - 1))


def trial(folder: Path, mode: str, number: int, seed: int) -> Trial:
    """One trial in `folder`; AssertionError where no kill comes in time."""
    draws, done = random.Random(f"{seed} {mode} {number}"), number % len(STAGES)
    longest = around(mode) + graph.seconds(done, done + 1)
    for attempt in range(TRIES):
        root = committed(folder / str(attempt), done)
        run, moment = Run(root, COMMANDS[mode]), draws.uniform(0, longest)
        run.until(lambda end=run.started + moment: time.monotonic() >= end, pause=0.1)
        stage, struck = run.stage(), run.alive()
        run.kill()
        run.end()
        if struck:
            return recover(root, Trial(mode, number, round(moment, 1), stage, [], [], ""))
    raise AssertionError(f"no kill came in time, {TRIES} times")


def recover(root: Path, struck: Trial) -> Trial:
    """Give the same command again, and compare."""
    needed: list[str] = []
    left: list[str] = []
    try:
        if struck.mode == "queue":
            queue_again(root, needed)
        else:
            needed += doctor(root) if struck.mode == "run" else []
            insist(root, COMMANDS[struck.mode], needed)
        left += confirm(root, struck.mode)
        result = SAME
    except Exception as error:
        result = f"{type(error).__name__}: {error}"
    return struck._replace(needed=needed, left=left, result=result)


def queue_again(root: Path, needed: list[str]) -> None:
    """Do with a killed experiment what docs/reliability.md says, by the status that DVC shows."""
    status = status_of(NAME, insist(root, "dvc queue status", needed))
    commands = [f"dvc queue kill {NAME}"] if status == "Running" else []
    commands += [f"dvc queue remove {NAME}"] if status in ("Running", "Failed") else []
    for command in commands:
        needed.append(command)
        insist(root, command, needed)
    if status == "Queued":  # its worker died before it began
        insist(root, "dvc queue start", needed)
    elif not experiments(root):  # else it was recorded before the kill
        insist(root, COMMANDS["queue"], needed)


def status_of(name: str, listed: str) -> str:
    """The status of the experiment `name` in what `dvc queue status` prints; "": not there."""
    found = re.search(rf"\b{name}\b.*\b(Queued|Running|Failed|Success)\b", listed)
    return found[1] if found else ""


def insist(root: Path, command: str, needed: list[str]) -> str:
    """The output of `command`; where it refuses, the doctor's commands are given first."""
    run = Run(root, command)
    if run.end() == 0:
        return run.text
    needed += doctor(root)
    return output(root, command)


def doctor(root: Path) -> list[str]:
    """The commands that the doctor printed, given; random names are left out."""
    printed = re.findall(r"; run: (.+)$", graph.repair(root), re.M)
    return [re.sub(r"/tmp\w+", "/tmp...", command) for command in printed]


def confirm(root: Path, mode: str) -> list[str]:
    """Assert that all is as if there had been no kill; the commands that clear what one left."""
    left = doctor(root)
    assert output(root, "git symbolic-ref HEAD") == "refs/heads/master\n", "HEAD is on no branch"
    if EDIT not in (root / "README.md").read_text():
        hidden = output(root, "git stash show -p; git diff HEAD refs/exps/exec/EXEC_MERGE; true")
        assert EDIT in hidden, "an edit was lost"
        left.append("git stash pop")
    recorded = experiments(root)
    assert recorded, "no experiment is recorded"
    for commit in [] if mode == "run" else recorded:
        output(root, f"git checkout -qf HEAD && dvc exp apply {commit}")
        graph.check(root)
    graph.check(root)
    return left


def summary(trials: Sequence[Trial]) -> dict[str, dict[str, object]]:
    """By mode: the number of kills, of those that ended well, where they struck, what it took."""
    found: dict[str, dict[str, object]] = {}
    for mode in dict.fromkeys(trial.mode for trial in trials):
        of_mode = [trial for trial in trials if trial.mode == mode]
        stages = collections.Counter(trial.stage or "between stages" for trial in of_mode)
        needed = collections.Counter(what for trial in of_mode for what in set(trial.needed))
        left = collections.Counter(what for trial in of_mode for what in set(trial.left))
        found[mode] = {
            "kills": len(of_mode),
            "same_bytes": sum(trial.result == SAME for trial in of_mode),
            "nothing_else_needed": sum(not trial.needed for trial in of_mode),
            "struck": dict(stages.most_common()),
            "needed": dict(needed.most_common()),
            "left": dict(left.most_common()),
        }
    return found


def main(options: argparse.Namespace) -> int:
    """Print and save every trial and the sums; the number of failures."""
    trials: list[Trial] = []
    modes = [options.mode] if options.mode else list(COMMANDS)
    for number, mode in itertools.product(range(options.times), modes):
        trials.append(in_folder(mode, number, options.seed))
        print(trials[-1], flush=True)
        found = {"sums": summary(trials), "trials": [each._asdict() for each in trials]}
        measure.save(options.out, "kills", vars(options), found)
    return sum(trial.result != SAME for trial in trials)


@mock.patch.object(graph, "PATIENCE", PATIENCE)
def in_folder(mode: str, number: int, seed: int) -> Trial:
    """A trial in a folder of its own, which stays if the trial fails."""
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    try:
        ended = trial(folder, mode, number, seed)
    except Exception as error:
        ended = Trial(mode, number, 0.0, "", [], [], f"{type(error).__name__}: {error}")
    if ended.result == SAME:
        shutil.rmtree(folder)
        return ended
    return ended._replace(result=f"{ended.result}\nin {folder}")


if __name__ == "__main__":
    parser = measure.parser(__doc__)
    parser.add_argument("--times", type=int, default=30, help="kills of each mode")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", choices=COMMANDS, help="this one only")
    sys.exit(bool(main(parser.parse_args())))
