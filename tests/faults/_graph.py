"""The whole graph to break: tiny, in every state it can be in, run by DVC in processes to strike.

All processes of a run carry its mark in their environment, so that none of them can hide.
"""

import functools
import getpass
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests import test_stages
from tests.faults import _project

STAGES = ("download", "train", "evaluate", "explain", "visualize")
COMMAND = "python -m abn.cli.doctor --fix && dvc repro"
TINY = {
    "data": {"size": 32, "shapes": {"train": 12, "val": 10}},
    "train": {"epochs": 2, "batch_size": 4, "sizes": [32], "save_every": 2},
    "evaluate": {"size": 32, "resize": 32},
    "explain": {"images": 2, "steps": 2},
    "visualize": {"dpi": 50, "classes": 2, "errors": 0},
}
PATIENCE = 300.0  # seconds; nothing here takes so long
TORCH = f"torchinductor_{getpass.getuser()}"  # torch makes it in $TMPDIR, fault or not
ODD = ("*.part", ".tmp*", "*.tmp", "*.bad")


class Run:
    """A command under way in the project `root`; what it says goes to a file beside it."""

    def __init__(self, root: Path, command: str = COMMAND, **env: str) -> None:
        self.mark, self.started = uuid.uuid4().hex, time.monotonic()
        self.said = root.parent / f"said-{self.mark}.txt"
        with self.said.open("w") as said:
            self.process = subprocess.Popen(
                command,
                shell=True,
                cwd=root,
                env=environment(root) | env | {"ABN_RUN": self.mark},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a background job of a shell would ignore Ctrl-C
            )

    @property
    def text(self) -> str:
        return self.said.read_text(errors="replace")

    def alive(self) -> list[psutil.Process]:
        """All that came of this run, wherever they went."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                marked = process.environ().get("ABN_RUN") == self.mark
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def trains(self, root: Path) -> bool:
        """Wait until there is something to resume from; whether there is."""
        return self.until(lambda: any(root.glob(".resume/*/state-*.safetensors")))

    def parts(self) -> dict[str, psutil.Process]:
        """Those that do the work now, by their part in it: doctor, dvc, a stage's name."""
        found: dict[str, psutil.Process] = {}
        for process in self.alive():
            with suppress(psutil.Error):
                found.setdefault(_part(process.cmdline()), process)
        return {part: process for part, process in found.items() if part}

    def stage(self) -> str:
        """The stage that is at work, or nothing."""
        return next((part for part in self.parts() if part in STAGES), "")

    def until(self, condition: Callable[[], object], pause: float = 0.02) -> bool:
        """Wait until `condition` holds; whether it did before all of the run was over."""
        while not condition():
            if self.process.poll() is not None and not self.alive():
                return False
            self._check_patience()
            time.sleep(pause)
        return True

    def end(self) -> int:
        """Wait until all its processes are gone; its exit code."""
        code = self.process.wait(PATIENCE)
        while self.alive():
            self._check_patience()
            time.sleep(0.05)
        return code

    def kill(self) -> None:
        """kill -9 for all of it."""
        for process in self.alive():
            with suppress(psutil.Error):
                process.kill()
        self.process.wait()

    def _check_patience(self) -> None:
        if time.monotonic() - self.started > PATIENCE:
            left = [process.cmdline() for process in self.alive()]
            self.kill()
            raise AssertionError(f"hangs: {left}\n{self.text}")


def _part(command: list[str]) -> str:
    if command[1:2] and Path(command[1]).name == "dvc":
        return "dvc"
    module = command[2] if command[1:2] == ["-m"] and len(command) > 2 else ""
    return module.removeprefix("stages.") if module.startswith("stages.") else ""


def environment(root: Path) -> dict[str, str]:
    """For commands in `root`: a state after every step, temporary files of all beside it."""
    aside = {name: str(root.parent / name) for name in ("TMPDIR", "DVC_SITE_CACHE_DIR")}
    for folder in aside.values():
        Path(folder).mkdir(exist_ok=True)
    quick = {"ABN_CHECKPOINT_EVERY": "0", "OMP_NUM_THREADS": "1", "CI": "true"}
    return _project.environment(**quick, **aside, **test_stages.IDENTITY)


@functools.cache
def _home() -> Path:
    """Where the states are; it goes with this process."""
    folder = tempfile.TemporaryDirectory(prefix="states-")
    _home.keep = folder  # type: ignore[attr-defined]
    return Path(folder.name)


@functools.cache
def state(done: int = len(STAGES)) -> Path:
    """A project in which so many stages are done, one after the other, without a fault."""
    root = _home() / str(done) / "project"
    if done == 0:
        root.mkdir(parents=True)
        project = test_stages.copy(root)
        project.change(**TINY)
        project.run("git commit -qam tiny")
        return root
    shutil.copytree(state(done - 1), root, symlinks=True)
    run = Run(root, f"dvc repro {STAGES[done - 1]}")
    assert run.end() == 0 and f"Running stage '{STAGES[done - 1]}'" in run.text, run.text
    Path(root.parent, "seconds").write_text(str(time.monotonic() - run.started))
    return root


def seconds(start: int, end: int = len(STAGES)) -> float:
    """How long a run took from where so many stages were done to where so many were."""
    timed = [state(done).parent / "seconds" for done in range(start + 1, end + 1)]
    return sum(float(file.read_text()) for file in timed)


def project(folder: Path, done: int) -> Path:
    """A copy of the project with so many stages done, to break."""
    return Path(shutil.copytree(state(done), folder / "project", symlinks=True))


@functools.cache
def expected(done: int = len(STAGES)) -> dict[str, str]:
    """What is there after so many stages without a fault."""
    return outputs(state(done))


def outputs(root: Path) -> dict[str, str]:
    """The digests of all that the stages write, and of what DVC records of it."""
    record = {"dvc.lock": test_stages.md5(root / "dvc.lock")}
    return test_stages.Project(root).outputs() | record


def leftovers(root: Path) -> list[str]:
    """Temporary files, scratch, locks and entries of processes that should be gone by then."""
    inside = [path for pattern in ODD for path in root.rglob(pattern)]
    inside += _project.unfinished(root)
    inside += [*root.glob(".cache/locks/*"), *root.glob(".git/**/*.lock")]
    inside += [path for path in (root.parent / "TMPDIR").glob("*") if path.name != TORCH]
    table = root / ".dvc/tmp/rwlock"
    inside += [table] if table.exists() and "pid" in table.read_text() else []
    return sorted(str(path.relative_to(root.parent)) for path in inside)


def is_whole(root: Path, done: int = len(STAGES)) -> None:
    """Assert that after so many stages all is as if nothing had happened."""
    differing = {name for name, _ in outputs(root).items() ^ expected(done).items()}
    assert not differing, f"{sorted(differing)} differ"
    assert leftovers(root) == []


def heal(root: Path, command: str = COMMAND, done: int = len(STAGES)) -> Run:
    """Give the `command` again, assert that all is well after so many stages; the run."""
    run = Run(root, command)
    assert run.end() == 0, run.text
    is_whole(root, done)
    return run
