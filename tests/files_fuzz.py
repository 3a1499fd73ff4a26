"""Random trees of a user's files around a run: none of them is changed or removed.

    python -m tests.files_fuzz --times 2000 --seed 1

Each tree holds files with names like ours, links, locks, folders that are links to another place,
or another file system (for root, where it may mount one), and files of another owner. In it run:
what the stages use to write, with tiny contents, often against a disk that fails midway; the
doctor; and in one of DVC_EVERY trees DVC itself, with the outputs of dvc.yaml. What is compared is
every file that was there before: content, kind, mode, owner, time.
"""

import argparse
import contextlib
import errno
import functools
import io
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import yaml
from filelock import FileLock
from matplotlib.figure import Figure

from abn.cli import doctor
from abn.config import params as parameters
from abn.doctor import processes, working_tree
from abn.models import checkpoint
from abn.project import paths, results
from abn.runtime import files, locks
from abn.runtime.errors import UserError
from abn.tracking import outbox
from abn.training import optim, resume
from abn.training.state import State
from abn.visualize import figures, gallery
from tests import toys

ROOT = Path(__file__).parent.parent
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = parameters.load(ROOT / "params.yaml")
DVC_EVERY, SEES_EVERY = 50, 10  # trees; in the second the doctor looks for processes
SPLIT, WEIGHTS = toys.split(2), checkpoint.weights(toys.network())
Found = dict[Path, tuple[Any, ...]]
TRAININGS = [f"{number:016x}" for number in range(6)]
OUTS = {
    Path(out if isinstance(out, str) else next(iter(out)))
    for stage in GRAPH.values()
    for kind in ("outs", "metrics", "plots")
    for out in stage.get(kind, [])
}
TEXTS = [path for path in sorted(OUTS) if path.suffix in (".json", ".csv", ".html")]
# What the project writes, by exact name: such a file may be its own.
PARTS = {files.partial(path) for path in (*OUTS, *working_tree.WRITTEN)}
LOCKS = [paths.LOCKS / f"{name}.lock" for name in GRAPH]
OURS = OUTS | PARTS | {*LOCKS} | {Path("dvc.lock"), Path("dvc.yaml"), Path("params.yaml")}

FOLDERS = ["", "data", "metrics", "plots", "outputs", "checkpoint", "outputs/gallery", "images/cat"]
FOLDERS += [".cache", ".cache/locks", ".cache/downloads/ab", ".cache/tracking", ".resume", "schema"]
FOLDERS += [".git", ".git/refs/heads", ".dvc", ".dvc/tmp", ".dvc/tmp/exps/standalone/tmpab"]
FOLDERS += [".dvc/tmp/exps/tmpcd", ".resume/notes", ".resume/0123456789abcdef copy"]
FOLDERS += [f".resume/{name}" for name in TRAININGS]
LINKED = ("data", "metrics", "plots", "outputs", "checkpoint", ".resume", ".cache")
NAMES = [path.name for path in sorted(OUTS)] + ["model.safetensors", "epoch-0001.safetensors"]
NAMES += ["state-0001-00000001.safetensors", "done", "lock", "holiday-photos.zip", "notes.txt", "a"]
NAMES += [
    "train.lock",
    "index",
    "HEAD",
    "rwlock",
    "lock.soft",
    "cat-best.png",
    "error-1.png",
    "tmp",
]
FORMS = ["{}", "{}.part", ".{}.part", "{}~", "{}.lock", ".{}.swp", "{}.bad", "{}.tmp", "{} copy"]
FORMS += ["my {}", "{}.orig", ".tmp{:.6}", "{}.abn.part", ".{}.abn.part.txt"]


def is_ours(path: Path) -> bool:
    """Whether the project writes a file of this name in this folder."""
    training = path.parent.parent == paths.RESUME and resume.FOLDER.fullmatch(path.parent.name)
    tracked = path.parent == Path(".cache/tracking") and path.name == f"{TRAININGS[0]}.jsonl"
    of_folder = {paths.CHECKPOINT: checkpoint.NAMES, paths.GALLERY: gallery.NAMES}
    output = of_folder.get(path.parent)
    return (
        path in OURS
        or bool(training and resume.OURS.fullmatch(path.name))
        or tracked
        or bool(output and (output.fullmatch(path.name) or files.SYSTEM.fullmatch(path.name)))
    )


def is_ours_by_any_way(root: Path, path: Path) -> bool:
    """Whether the project writes the file `path` of `root`, by this way or by one through a link.

    To make plots/ a link to a folder makes that folder plots/: a file in it with the name of an
    output is that output, whichever other link leads there. A check of ours could not protect it,
    since DVC removes a stage's outputs before the stage runs, and follows such links.
    """
    place = (root / path).parent.resolve()
    folders = (folder for folder in FOLDERS if (root / folder).resolve() == place)
    return any(is_ours(Path(folder, path.name)) for folder in folders)


def plant(
    root: Path, outside: Path, draws: random.Random, by_dvc: bool, stack: contextlib.ExitStack
) -> None:
    """A random tree of a user's files in `root` and `outside`; `stack` takes its mounts away."""
    for name in ("a.txt", "models/model.safetensors", "metrics/train.json"):
        write(outside / name, draws)
    for name in LINKED:
        is_free = not os.path.lexists(root / name) and not (by_dvc and Path(name) in OUTS)
        if is_free and draws.random() < 0.08:
            (root / name).symlink_to(draws.choice([outside, outside / "models"]))
        elif is_free and may_mount() and draws.random() < 0.08:
            stack.enter_context(other_file_system(root / name))
    for _ in range(draws.randint(4, 24)):
        path = Path(draws.choice(FOLDERS), draws.choice(NAMES))
        if draws.random() < 0.5:  # right beside an output
            path = draws.choice(sorted(OUTS))
        path = path.with_name(draws.choice(FORMS).format(path.name))
        removed_by_dvc = by_dvc and any(out in path.parents for out in OUTS)
        if not is_ours_by_any_way(root, path) and not removed_by_dvc:
            with contextlib.suppress(OSError):  # a folder or a file is in its place
                add(root / path, outside, draws)


@contextlib.contextmanager
def other_file_system(folder: Path) -> Iterator[None]:
    """`folder` is another file system, in memory."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "fuzz", folder], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@functools.cache
def may_mount() -> bool:
    """Whether this process may mount a file system."""
    try:
        with tempfile.TemporaryDirectory() as folder, other_file_system(Path(folder, "a")):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def add(path: Path, outside: Path, draws: random.Random) -> None:
    """A file, a folder, a link or a pipe at `path`, unless there is something."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path):
        return
    kind = draws.choice(["file"] * 6 + ["folder", "link", "hard link", "dangling", "pipe"])
    if kind == "file":
        write(path, draws)
    elif kind == "folder":
        write(path / "notes.txt", draws)
    elif kind == "link":
        path.symlink_to(draws.choice([outside, outside / "a.txt"]))
    elif kind == "hard link":
        os.link(outside / "a.txt", path)
    elif kind == "dangling":
        path.symlink_to("nowhere")
    else:
        os.mkfifo(path)
    if draws.random() < 0.1 and not path.is_symlink():
        path.chmod(draws.choice([0o000, 0o444, 0o555]))
    if draws.random() < 0.1 and os.geteuid() == 0:
        os.chown(path, 12345, 12345, follow_symlinks=False)


def write(path: Path, draws: random.Random) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = draws.choice(["", "mine", '{"write": {}}', f"{os.getpid()}\n", "stages:\n"])
    path.write_text(content + draws.choice(["", "\0", "é"]), encoding="utf-8")
    os.utime(path, (draws.randint(0, 2**31), draws.randint(0, 2**31)))


def snapshot(*roots: Path) -> Found:
    """All that is there; of a folder only that it is one."""
    found: Found = {}
    for root in roots:
        for folder, folders, names in os.walk(root):
            for path in (Path(folder, name) for name in (*folders, *names)):
                status = path.lstat()
                if stat.S_ISDIR(status.st_mode):
                    found[path] = ("folder",)
                    continue
                content: object = None
                if stat.S_ISLNK(status.st_mode):
                    content = path.readlink()
                elif stat.S_ISREG(status.st_mode):
                    content = path.read_bytes()
                found[path] = (
                    content,
                    status.st_mode,
                    status.st_uid,
                    status.st_mtime_ns,
                    status.st_ino,
                )
    return found


def failing(draws: random.Random) -> Any:
    """`files.sync` that waits for no disk; in half of the trees it fails once, at a random call."""
    calls, at = iter(range(10**6)), draws.randrange(120)

    def sync(path: Path) -> None:
        if next(calls) == at:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))

    return mock.patch.object(files, "sync", sync)


def steps(draws: random.Random) -> Iterator[Callable[[], object]]:
    """What a run of the graph writes, with what the stages write it with."""
    for path in (paths.TRAIN_DATA, paths.VAL_DATA):
        yield lambda path=path: toys.pack(path, SPLIT)
    yield lambda: train(TRAININGS[0])
    yield lambda: train(draws.choice(TRAININGS[1:]))
    snapshots = {"model": WEIGHTS, "epoch-0001": WEIGHTS}
    yield lambda: checkpoint.save_all(
        paths.CHECKPOINT, snapshots, toys.NAMES, checkpoint.recipe(PARAMS)
    )
    for path in TEXTS:
        yield lambda path=path: results.write_text(path, "text\n")
    yield lambda: gallery.write(paths.GALLERY, [], None, 50)  # type: ignore[arg-type]
    yield lambda: figures.save(Figure((1, 1)), paths.SHEET)


def train(name: str) -> None:
    """A training that saves two states and a snapshot, and makes room for itself."""
    model = toys.network()
    state = State({"model": model}, optim.sgd(model, PARAMS.train))
    with outbox.training(name, {}, {}) as note, resume.open_store(paths.RESUME / name) as store:
        store.load(state)
        for epoch in (1, 2):
            row = {"epoch": epoch, "size": 32, "lr": 0.1, "train_loss": 0.5, "train_top1": 0.5}
            state.history = [*state.history[: epoch - 1], row]
            note("row", row)
            store.save(state)
        store.save_snapshot(1, WEIGHTS)
        store.mark_done()


def run_graph(draws: random.Random) -> None:
    """All steps, each under the lock of a stage; what a user can be told is no fault."""
    for step in steps(draws):
        with contextlib.suppress(UserError, OSError), locks.alone(draws.choice(LOCKS), "it"):
            step()


def run_dvc(root: Path, draws: random.Random) -> None:
    """`dvc repro` of stages with the outputs of dvc.yaml, and commands that only make them."""
    stages = {}
    for name, stage in GRAPH.items():
        kept = {kind: stage[kind] for kind in ("outs", "metrics", "plots") if kind in stage}
        entries = [each for kind in kept.values() for each in kind]
        made = [each if isinstance(each, str) else next(iter(each)) for each in entries]
        stages[name] = {
            "cmd": "; ".join(f"mkdir -p $(dirname {p}); echo >{p}" for p in made)
        } | kept
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    command = f"dvc repro {draws.choice(['', '-f', '-s train', '--dry'])}"
    subprocess.run(command, shell=True, capture_output=True, stdin=subprocess.DEVNULL)


def trial(number: int, seed: int, template: Path) -> list[str]:
    """One tree: what was changed or removed in it that the project did not write."""
    draws, by_dvc = random.Random(f"{seed} {number}"), number % DVC_EVERY == 0
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, contextlib.ExitStack() as stack:
        root, outside = Path(folder, "project"), Path(folder, "outside")
        shutil.copytree(template, root)
        stack.callback(os.chdir, Path.cwd())
        os.chdir(root)
        stack.enter_context(live_training(draws))
        plant(root, outside, draws, by_dvc, stack)
        before, said = snapshot(root, outside), io.StringIO()
        stack.enter_context(contextlib.redirect_stdout(said))
        stack.enter_context(contextlib.redirect_stderr(io.StringIO()))
        stack.enter_context(failing(draws))
        if number % SEES_EVERY:
            stack.enter_context(mock.patch.object(processes, "at_work", lambda root: []))
        kept, most = draws.choice([0, 3]), draws.choice([0, 20e9])
        stack.enter_context(mock.patch.object(resume, "FINISHED_KEPT", kept))
        stack.enter_context(mock.patch.object(resume.make_room, "__defaults__", (most,)))
        run_graph(draws)
        if by_dvc:
            run_dvc(root, draws)
        doctor.run(argparse.Namespace())
        return faults(root, template, before, snapshot(root, outside), said.getvalue())


def faults(root: Path, template: Path, before: Found, after: Found, said: str) -> list[str]:
    """In words: which of the files `before` are not the same `after`; what the doctor mistook."""
    names = {path.relative_to(template) for path in template.rglob("*")}  # git's and DVC's own
    # A training's folder goes when nothing is left in it: ours by name, and no file of anybody's.
    names |= {paths.RESUME / name for name in TRAININGS}
    theirs = [p for p in before if not (p.is_relative_to(root) and p.relative_to(root) in names)]
    changed = [f"changed or removed: {path}" for path in theirs if after.get(path) != before[path]]
    named = map(Path, re.findall(r"half-written .* run: rm -r (.+)$", said, re.M))
    return changed + [f"the doctor would remove {path}" for path in named if path not in PARTS]


@contextlib.contextmanager
def live_training(draws: random.Random) -> Iterator[None]:
    """In some trees: a training that runs in another process, whose state is not ours to remove."""
    if draws.random() < 0.5:
        yield
        return
    folder = paths.RESUME / TRAININGS[5]
    write(folder / "state-0009-00000001.safetensors", draws)
    with FileLock(folder / resume.LOCK):
        yield


def main(times: int, seed: int) -> int:
    """Run the trees; print every fault and the sum; the number of trees with a fault."""
    started, faulty = time.monotonic(), 0
    torch.set_num_threads(1)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {"ABN_WAIT": "0", "ABN_TRACKING": "on", "PATH": path}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, mock.patch.dict(os.environ, env):
        template = Path(folder)
        shutil.copy(ROOT / "params.yaml", template)
        subprocess.run("git init -q -b main && dvc init -q", shell=True, cwd=template, check=True)
        for number in range(times):
            if found := trial(number, seed, template):
                faulty += 1
                print(f"{number}: " + "; ".join(found), flush=True)
            if number % 100 == 99:
                print(f"{number + 1} trees", flush=True)
    seconds = time.monotonic() - started
    print(f"{times} trees in {seconds:.0f} s: {faulty} with a file changed or removed")
    return faulty


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    sys.exit(bool(main(options.times, options.seed)))
