"""The whole graph, tiny, run by DVC in processes to kill: for test_graph_kills.py and the soak.

All processes of a run carry its mark in their environment, so that none of them can hide.
"""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests import test_stages

STAGES = ("download", "train", "evaluate", "explain", "visualize")
DOCTOR = "python -m abn doctor"
TINY = {
    "data": {"size": 32, "shapes": {"train": 12, "val": 10}},
    "train": {"epochs": 2, "batch_size": 4, "sizes": [32], "save_every": 2},
    "evaluate": {"size": 32, "resize": 32},
    "explain": {"images": 2, "steps": 2},
    "visualize": {"dpi": 50, "classes": 2, "errors": 0},
}
PATIENCE = 300.0  # seconds; nothing here takes so long


class Run:
    """A command under way in the project `root`; its output goes to a file beside it."""

    def __init__(self, root: Path, command: str = "dvc repro", **env: str) -> None:
        self.mark, self.started = uuid.uuid4().hex, time.monotonic()
        self.output = root.parent / f"output-{self.mark}.txt"
        with self.output.open("w") as output:
            self.process = subprocess.Popen(
                command,
                shell=True,
                cwd=root,
                env=environment(root) | env | {"ABN_RUN": self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a background job of a shell would ignore Ctrl-C
            )

    @property
    def text(self) -> str:
        return self.output.read_text(errors="replace")

    def alive(self) -> list[psutil.Process]:
        """All processes that this run started, directly or not."""
        marked = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                is_marked = process.environ().get("ABN_RUN") == self.mark
                if is_marked and process.status() != psutil.STATUS_ZOMBIE:
                    marked.append(process)
        return marked

    def parts(self) -> dict[str, psutil.Process]:
        """The processes that do the work now, by name: "dvc", or that of a stage."""
        parts: dict[str, psutil.Process] = {}
        for process in self.alive():
            with suppress(psutil.Error):
                words = process.cmdline()
                name = words[2].removeprefix("stages.") if words[1:2] == ["-m"] else ""
                if Path(words[1]).name == "dvc" or name in STAGES:
                    parts.setdefault(name or "dvc", process)
        return parts

    def stage(self) -> str:
        """The stage that is running, or nothing."""
        return next((part for part in self.parts() if part in STAGES), "")

    def trains(self, root: Path) -> bool:
        """Wait until there is a state to resume from; whether there is."""
        return self.until(lambda: any(root.glob(".resume/*/state-*[2-9].safetensors")))

    def until(self, condition: Callable[[], object], pause: float = 0.02) -> bool:
        """Wait until `condition` is true; whether it was before the run was over."""
        while not condition():
            if self.process.poll() is not None and not self.alive():
                return False
            self._check_patience()
            time.sleep(pause)
        return True

    def end(self) -> int:
        """Wait until all processes are gone; the exit code."""
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
            running = [process.cmdline() for process in self.alive()]
            self.kill()
            raise AssertionError(f"hangs: {running}\n{self.text}")


def environment(root: Path) -> dict[str, str]:
    """For commands in `root`: a state after each step, all temporary files beside `root`.

    Nothing goes to a store of the caller's.
    """
    given = "ABN_", "MLFLOW_"
    kept = {key: value for key, value in os.environ.items() if not key.startswith(given)}
    aside = {name: str(root.parent / name) for name in ("TMPDIR", "DVC_SITE_CACHE_DIR")}
    for folder in aside.values():
        Path(folder).mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    quick = {"ABN_CHECKPOINT_EVERY": "0", "OMP_NUM_THREADS": "1", "ABN_TRACKING": "off"}
    return kept | aside | test_stages.IDENTITY | quick | {"PATH": path, "ABN_DEVICE": "cpu"}


def output(root: Path, command: str, code: int = 0, **env: str) -> str:
    """The output of `command` once all its processes are gone; it must exit with `code`."""
    run = Run(root, command, **env)
    assert run.end() == code, run.text
    return run.text


@functools.cache
def _home() -> tempfile.TemporaryDirectory[str]:
    """Where the states are; it goes with this process."""
    return tempfile.TemporaryDirectory(prefix="states-")


@functools.cache
def state(done: int = len(STAGES)) -> Path:
    """A project in which the first `done` stages have run without a fault."""
    root = Path(_home().name, str(done), "project")
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
    """How long the stages from `start` to `end` took without a fault."""
    timed = [state(done).parent / "seconds" for done in range(start + 1, end + 1)]
    return sum(float(file.read_text()) for file in timed)


def project(folder: Path, done: int) -> Path:
    """A copy of `state(done)`, to break."""
    return Path(shutil.copytree(state(done), folder / "project", symlinks=True))


def outputs(root: Path) -> dict[str, str]:
    """The digests of all that the stages write, and of what DVC records."""
    record = {"dvc.lock": test_stages.md5(root / "dvc.lock")}
    return test_stages.Project(root).outputs() | record


def repair(root: Path) -> str:
    """Do what a person would: run the doctor, then each command it prints; all that it printed."""
    text = ""
    for _ in range(5):
        run = Run(root, DOCTOR)
        code, text = run.end(), text + run.text
        if code == 0:
            return text
        for command in re.findall(r"; run: (.+)$", run.text, re.M):
            subprocess.run(shlex.split(command), cwd=root, check=True, capture_output=True)
    raise AssertionError(f"the printed commands do not repair it:\n{text}")


def check(root: Path, done: int = len(STAGES)) -> None:
    """Assert that the first `done` stages look as if there had been no fault."""
    differing = {name for name, _ in outputs(root).items() ^ outputs(state(done)).items()}
    assert not differing, f"{sorted(differing)} differ"
    patterns = (".git/**/*.lock", ".cache/locks/*", "data/.tmp*", "*.part", "[cdmop]*/**/*.part")
    assert not [path for pattern in patterns for path in root.glob(pattern)]


def finish(root: Path, command: str = "dvc repro", done: int = len(STAGES)) -> str:
    """Repair, give `command` again and check the result; all that was printed."""
    text = repair(root) + output(root, command)
    check(root, done)
    return text
