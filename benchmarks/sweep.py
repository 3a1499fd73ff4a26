"""A sweep through DVC's queue: six tiny trainings one after another, and two at a time.

    python -m benchmarks.sweep --rounds 3

Two networks by three seeds, in a copy of the project that has its data already. Each round runs the
same six in three ways, each in a fresh copy: one after another with all cores; one after another
with the threads that each gets where two run (cores / 2); two at a time. Of each: seconds from
`dvc queue start` to the sixth result, results, MLflow runs, files left over. dvc.lock has the
checksum of every output: where it is the same, the results are the same bytes. After that MLflow's
store is emptied and filled by `abn sync`, and one training gets kill -9 half way and is queued
again. What DVC and MLflow cost beside the stages: `benchmarks.overhead`.
"""

import argparse
import math
import os
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks import measure
from tests import graph, kills, test_stages
from tests.graph import Run, output
from tests.stage_process import leftovers

JOBS = 2
SHARE = max((os.cpu_count() or 1) // JOBS, 1)  # threads of each where JOBS run at a time
ALL, FEWER, TWO = "one_by_one", "one_by_one_with_fewer_threads", "two_at_a_time"
START = {  # graph.environment says OMP_NUM_THREADS=1
    ALL: "env -u OMP_NUM_THREADS dvc queue start --jobs 1",
    FEWER: f"env OMP_NUM_THREADS={SHARE} dvc queue start --jobs 1",
    TWO: f"env -u OMP_NUM_THREADS ABN_JOBS={JOBS} dvc queue start --jobs {JOBS}",
}
TRACKED = {"ABN_TRACKING": "on", "ABN_CHECKPOINT_EVERY": "60"}
Grid = dict[str, list[Any]]  # values by param
Runs = dict[str, dict[str, Any]]  # what MLflow has, by the name of a run


def main() -> None:
    options = _parser().parse_args()
    grid = {"arch": options.archs, "seed": options.seeds}
    patient = mock.patch.object(graph, "PATIENCE", kills.PATIENCE)
    with measure.for_people(), _folder(options.work) as work, patient:
        base = prepared(work / "base", options.train, options.epochs)
        rounds = []
        for number in range(options.rounds):
            rounds.append({way: sweep(base, work / f"{number}-{way}", way, grid) for way in START})
            print(rounds[-1], flush=True)
        found = summary(rounds)
        found["sync"] = synced(work / f"0-{TWO}" / "project")
        expected = set(rounds[0][FEWER]["locks"].values())
        found["killed"] = killed(base, work / "killed", grid, expected)
    measure.save(options.out, "sweep", vars(options), found)
    print(found)


def prepared(folder: Path, train: int, epochs: int) -> Path:
    """A project that has its data, committed."""
    root = folder / "project"
    root.mkdir(parents=True)
    project = test_stages.copy(root)
    project.change(data={"shapes": {"train": train}}, train={"epochs": epochs})
    output(root, "dvc repro -q download && git commit -qam data")
    return root


def sweep(base: Path, folder: Path, way: str, grid: Grid) -> dict[str, Any]:
    """What came of the sweep in a copy of `base`: seconds, counts, digests of each dvc.lock."""
    root = copied(base, folder)
    changes = " ".join(f"-S {key}={','.join(map(str, values))}" for key, values in grid.items())
    output(root, f"dvc exp run -q --queue -n sweep {changes}")
    seconds = finished(root, START[way], math.prod(map(len, grid.values())))
    return {
        "seconds": round(seconds, 1),
        "results": len(locks(root)),
        "runs": len(runs(root)),
        "left": left(root),
        "locks": locks(root),
    }


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the rounds; the ratios are taken within a round."""
    per_round = {way: [each[way] for each in rounds] for way in START}
    found: dict[str, Any] = {
        way: {
            "seconds": [each["seconds"] for each in ours],
            "results": [each["results"] for each in ours],
            "runs": [each["runs"] for each in ours],
            "left": sorted({name for each in ours for name in each["left"]}),
        }
        for way, ours in per_round.items()
    }
    for way in (ALL, FEWER):
        pairs = zip(per_round[TWO], per_round[way], strict=True)
        ratio = statistics.median(two["seconds"] / other["seconds"] for two, other in pairs)
        found[f"{TWO}_against_{way}"] = round(ratio, 3)
    first = rounds[0][FEWER]["locks"]
    found["threads"] = {ALL: os.cpu_count(), FEWER: SHARE, TWO: SHARE}
    found["same_bytes"] = {  # how many results of each round are those of the first one's FEWER
        way: [len(first.items() & each["locks"].items()) for each in ours]
        for way, ours in per_round.items()
    }
    return found


def synced(root: Path) -> dict[str, Any]:
    """Whether `abn sync` brings the same runs to an emptied store; what they lack."""
    output(root, "python -m abn sync", **TRACKED)  # what the queue's processes left for later
    before = runs(root)
    (root / "mlflow.db").unlink(missing_ok=True)
    output(root, "python -m abn sync", **TRACKED)
    after = runs(root)
    lost = {name for run in before for name in before[run] if name not in after.get(run, {})}
    shared = [(run, name) for run in before for name in before[run] if name in after.get(run, {})]
    other = {name for run, name in shared if before[run][name] != after[run][name]}
    return {"runs": len(after), "same_names": before.keys() == after.keys()} | {
        "compared": len(shared),
        "lost": sorted(lost),
        "other": sorted(other),
    }


def killed(base: Path, folder: Path, grid: Grid, expected: set[str]) -> dict[str, Any]:
    """The first training of the sweep, killed after half of its epochs and queued again.

    Its dvc.lock is to be one of `expected`, those of the sweep.
    """
    name, changes = "struck", "-n struck " + " ".join(f"-S {key}={grid[key][0]}" for key in grid)
    root = copied(base, folder)
    output(root, f"dvc exp run -q --queue {changes}")
    run = Run(root, START[FEWER], **TRACKED | {"ABN_CHECKPOINT_EVERY": "0"})
    if not run.until(lambda: _half(root)):
        raise RuntimeError(f"ended before it could be killed\n{run.text}")
    run.kill()
    run.end()
    status = kills.status_of(name, kills.insist(root, "dvc queue status", []))
    for verb in ("kill", "remove") if status == "Running" else ("remove",):
        kills.insist(root, f"dvc queue {verb} {name}", [])
    graph.repair(root)
    output(root, f"dvc exp run -q --queue {changes}")
    finished(root, START[FEWER], 1)
    return {
        "status": status,
        "resumed": any("RESUMED" in text for text in _logs(root)),
        "same_bytes": set(locks(root).values()) <= expected,
        "runs": len(runs(root)),
        "left": left(root),
    }


def copied(base: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    return Path(shutil.copytree(base, folder / "project", symlinks=True))


def finished(root: Path, command: str, count: int) -> float:
    """Seconds from `command` to the last of `count` results; RuntimeError if one fails."""
    run = Run(root, command, **TRACKED)
    done = run.until(lambda: len(kills.experiments(root)) == count, pause=0.2)
    seconds = time.monotonic() - run.started
    run.end()  # DVC's workers wait for more to do
    if not done:
        raise RuntimeError(f"{output(root, 'dvc queue status')}\n{''.join(_logs(root))}")
    return seconds


def locks(root: Path) -> dict[str, str]:
    """By experiment the digest of its dvc.lock, which has the checksums of all its outputs."""
    form = "'%(refname:lstrip=4) %(objectname)'"
    refs = output(root, f"git for-each-ref --format={form} 'refs/exps/[0-9a-f][0-9a-f]/**'")
    named = [line.split() for line in refs.splitlines()]
    found = {name: output(root, f"git rev-parse {commit}:dvc.lock") for name, commit in named}
    return {name: digest.strip() for name, digest in found.items()}


def left(root: Path) -> list[str]:
    """What should not be there: temporary files, copies of the project, changes git sees."""
    copies = [str(path) for path in root.glob(".dvc/tmp/exps/tmp*")]
    names = [Path(path).name for path in leftovers(root) + copies]
    return names + output(root, "git status --porcelain").splitlines()


def runs(root: Path) -> Runs:
    """Status, params and last metrics of every run in MLflow's database."""
    found: Runs = {}
    if not (root / "mlflow.db").exists():  # else SQLite would make it
        return found
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        for name, status in database.execute("select name, status from runs"):
            found.setdefault(name, {"status": status})
        for table in ("params", "latest_metrics"):
            query = f"select name, key, value from {table} join runs using (run_uuid)"
            for name, key, value in database.execute(query):
                found[name][f"{table}.{key}"] = value
    return found


def _half(root: Path) -> bool:
    return any("px  loss" in text for text in _logs(root))  # an epoch has ended


def _logs(root: Path) -> list[str]:
    """What the jobs of the queue have printed."""
    return [path.read_text("utf-8") for path in sorted(root.glob(".dvc/tmp/exps/run/*/*.out"))]


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given:
        yield given.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="sweep-") as folder:
        yield Path(folder)


def _parser() -> argparse.ArgumentParser:
    parser = measure.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--archs", nargs="+", default=["resnet18", "resnet34"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--train", type=int, default=256, help="images of each training")
    parser.add_argument("--epochs", type=int, default=2, help="2 at least, to kill half way")
    parser.add_argument("--work", type=Path, help="a new folder, kept; else a temporary one")
    return parser


if __name__ == "__main__":
    main()
