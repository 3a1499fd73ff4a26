"""What the pipeline itself costs: DVC, imports, MLflow, everything that is not training.

    python -m benchmarks.overhead

In a clone of HEAD with a tiny data set: `dvc repro` with nothing to do, `dvc exp run` beyond the
stages it runs, `dvc repro` until one optimizer step and its validation are done, and the imports of
each stage. Then what an experiment costs beside its stages once a project has 1, 50, 200: DVC's
part, and how much longer the stages take with MLflow than without.
"""

import ast
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from abn.tracking import follow, outbox
from benchmarks import measure

STAGES = ("download", "train", "evaluate", "explain", "visualize")
SETTLED, EPOCHS = 20.0, 20  # seconds until the process beside a training rests; one a second
PAUSE = 0.05  # seconds between two looks at what is at work
TINY = ("data.shapes.train=32", "data.shapes.val=10", "train.epochs=1", "explain.images=10")


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--experiments", type=int, nargs="*", default=[1, 50, 200])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "clone"
        subprocess.run(["git", "clone", "-q", ".", str(clone)], check=True)
        results = run(clone, options.rounds)
        results["experiments"] = grown(clone, options.experiments, options.rounds)
        results["tracking"] = tracking(Path(folder))  # last: it sets this process's environment
    measure.save(options.out, "overhead", vars(options), results)


def run(clone: Path, rounds: int) -> dict[str, Any]:
    """Medians in seconds."""
    _call(clone, "dvc", "exp", "run", "-q", *(f"-S{change}" for change in TINY))
    results: dict[str, Any] = {}
    noop = [_call(clone, "dvc", "repro", "-q") for _ in range(rounds)]
    results["noop_repro"] = _median(noop)
    first, beyond = [], []
    for number in range(rounds):
        rate = f"-Strain.lr={0.01 + number / 1000}"
        _change(clone, f"{0.02 + number / 1000}")
        first.append(_until(clone, "epoch 1/1 ", "dvc", "repro", "train"))
        beyond.append(_beyond(clone, "dvc", "exp", "run", "-q", rate)[0])
    results["repro_to_first_step_and_validation"] = _median(first)
    results["exp_run_beyond_its_stages"] = _median(beyond)
    results["imports"] = {
        stage: _median([_call(clone, "python", "-c", _imports(stage)) for _ in range(rounds)])
        for stage in STAGES
    }
    print(results)
    return results


def grown(clone: Path, counts: list[int], rounds: int) -> list[dict[str, float]]:
    """What an experiment costs beside its stages where there are `counts`; medians in seconds."""
    rows, rates = [], itertools.count(1)
    for count in counts:
        _add_experiments(clone, count)
        _call(clone, "python", "-m", "abn", "sync")
        found: dict[str, list[tuple[float, float]]] = {"on": [], "off": []}
        for _, word in itertools.product(range(rounds), found):
            rate = f"-Strain.lr={0.03 + next(rates) / 1000}"
            command = "env", f"ABN_TRACKING={word}", "dvc", "exp", "run", "-q", rate
            found[word].append(_beyond(clone, *command))
        beyond = _median([idle for idle, _ in found["on"]])
        stages = [_median([working for _, working in found[word]]) for word in found]
        mlflow = round(stages[0] - stages[1], 2)
        rows.append({"experiments": count, "dvc": beyond, "mlflow": mlflow, "stages": stages[1]})
        print(rows[-1], flush=True)
    return rows


def _add_experiments(clone: Path, count: int) -> None:
    """Copies of the first experiment under other names, until there are `count`."""
    form = "--format=%(refname) %(objectname)"
    refs = _git(clone, "for-each-ref", form, "refs/exps/[0-9a-f][0-9a-f]/**").splitlines()
    name, commit = refs[0].split()
    for number in range(len(refs), count):
        words = "commit-tree", f"{commit}^{{tree}}", "-p", f"{commit}^", "-m", f"copy {number}"
        _git(clone, "update-ref", f"{name}-{number}", _git(clone, *words))


def _git(clone: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", *words], cwd=clone, check=True, capture_output=True, encoding="utf-8"
    )
    return done.stdout.strip()


def tracking(root: Path) -> dict[str, float]:
    """What MLflow costs a training with an epoch a second, beside it and in it."""
    longest, epoch = 0.0, {f"metric_{number}": 1 / (number + 1) for number in range(15)}
    os.environ |= {"DVC_ROOT": str(root), "ABN_TRACKING": "on"}
    with follow.following(), outbox.training("benchmark", {}, {}) as add:
        (beside,) = psutil.Process().children()
        time.sleep(SETTLED)
        started = sum(beside.cpu_times()[:2])
        for number in range(EPOCHS):
            before = time.perf_counter()
            add("row", {"epoch": number} | epoch)
            longest = max(longest, time.perf_counter() - before)
            time.sleep(1)
        share = (sum(beside.cpu_times()[:2]) - started) / EPOCHS
    return {"start": round(started, 2), "share_of_a_core": round(share, 3), "append": longest}


def _call(clone: Path, *command: str) -> float:
    """Seconds that `command` takes in `clone`; an error stops the benchmark."""
    started = time.perf_counter()
    subprocess.run(command, cwd=clone, env=_environment(), check=True, capture_output=True)
    return time.perf_counter() - started


def _beyond(clone: Path, *command: str) -> tuple[float, float]:
    """Seconds of `command` in which no stage was at work, and in which one was."""
    pipe = psutil.Popen(command, cwd=clone, env=_environment(), stderr=subprocess.DEVNULL)
    started, idle = time.perf_counter(), 0.0
    before = started
    while pipe.poll() is None:
        time.sleep(PAUSE)
        working = any(_is_stage(child) for child in pipe.children())
        now = time.perf_counter()
        before, idle = now, idle + (0 if working else now - before)
    if pipe.returncode:
        raise RuntimeError(f"{' '.join(command)} failed")
    return idle, before - started - idle


def _is_stage(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return any(f"stages.{stage}" in process.cmdline() for stage in STAGES)
    return False


def _until(clone: Path, words: str, *command: str) -> float:
    """Seconds from the start of `command` to its first line with `words`."""
    started, seen = time.perf_counter(), 0.0
    pipe = subprocess.Popen(
        command,
        cwd=clone,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert pipe.stdout is not None
    for line in pipe.stdout:
        if words in line and "loss" in line and not seen:
            seen = time.perf_counter() - started
    if pipe.wait() or not seen:
        raise RuntimeError(f"{' '.join(command)} said no line with {words!r}")
    return seen


def _change(clone: Path, rate: str) -> None:
    """Another learning rate in params.yaml, so that training is due."""
    file = clone / "params.yaml"
    lines = file.read_text("utf-8").splitlines(keepends=True)
    changed = [f"  lr: {rate}\n" if line.startswith("  lr: ") else line for line in lines]
    file.write_text("".join(changed), encoding="utf-8")


def _imports(stage: str) -> str:
    """All that the stage imports, at once and once its params hold, as a program of its own."""
    tree = ast.parse(Path(f"stages/{stage}.py").read_text("utf-8"))
    imports = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))
    return "\n".join(ast.unparse(node) for node in imports)


def _environment() -> dict[str, str]:
    """With this Python first on the path."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def _median(seconds: list[float]) -> float:
    return round(statistics.median(seconds), 2)


if __name__ == "__main__":
    main()
