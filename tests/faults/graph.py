"""What DVC leaves behind when it dies, by DVC itself: the doctor mends, the same command ends."""

import random
import re
import signal
import time
from functools import partial
from pathlib import Path

from tests import test_stages
from tests.faults import Outcome, _graph, kind
from tests.faults._graph import STAGES, Run

GROUP = "DVC"
SAME = "the same bytes"
DOCTOR = "python -m abn.cli.doctor --fix"
TRAIN = "dvc repro train"
TRAINED, ALL = STAGES.index("train") + 1, len(STAGES)


def _says(root: Path, command: str, code: int = 0, **env: str) -> str:
    """What `command` says once all its processes are gone; its exit code has to be `code`."""
    run = Run(root, command, **env)
    assert run.end() == code, run.text
    return run.text


def _cut(root: Path, length: int) -> bool:
    """Cut dvc.lock, have it mended; whether DVC alone would have refused it."""
    lock = root / "dvc.lock"
    whole = lock.read_bytes()
    lock.write_bytes(whole[:length])
    status = Run(root, "dvc status")
    status.end()
    refused = "validation failed" in status.text or "structure is corrupted" in status.text
    said = _says(root, DOCTOR)
    assert lock.read_bytes() == whole and ("mended by git checkout" in said or not refused), said
    return refused


@kind(GROUP, "dvc.lock is cut off")
def _(folder: Path, draws: random.Random) -> Outcome:
    root = folder / "project"
    root.mkdir()
    test_stages.copy(root)
    started = time.monotonic()
    assert _cut(root, draws.randrange(30)), "DVC does not mind"  # nor a whole line of a stage
    return Outcome("git checkout dvc.lock", seconds=time.monotonic() - started)


@kind(
    GROUP, "dvc.lock is cut off at 20 lengths, the last run in git or only in the run cache", True
)
def _(folder: Path, draws: random.Random) -> Outcome:
    root = _graph.project(folder, ALL)
    size, refused = (root / "dvc.lock").stat().st_size, 0
    for length in [0, 1, size - 1, *(draws.randrange(size) for _ in range(17))]:
        refused += _cut(root, length)
        assert "up to date" in _says(root, "dvc repro")
    _says(root, "git reset -q")  # what DVC had staged
    (root / "dvc.lock").write_bytes(b"")
    said = _graph.heal(root).text
    assert said.count("is cached - skipping run") == ALL, said
    return Outcome(f"git checkout dvc.lock, nothing runs again; DVC alone refused {refused} of 20")


def _table(content: str, folder: Path, draws: random.Random) -> Outcome:
    root = folder / "project"
    root.mkdir()
    test_stages.copy(root)
    table = root / ".dvc/tmp/rwlock"
    table.parent.mkdir(exist_ok=True)
    table.write_text(content.replace("FOLDER", str(root)))
    refused = _says(root, "dvc repro -s download", 255)
    assert re.search("rwlock.*corrupted|format error|is busy", refused), refused
    assert "mended by rm .dvc/tmp/rwlock" in _says(root, DOCTOR)
    assert "Reproducing" not in _says(root, "dvc repro --dry -s download")
    return Outcome("rm .dvc/tmp/rwlock")


for _what, _content in (
    ("empty", ""),
    ("cut off", '{"write": {"/project/data": {"pid": 7'),
    ("no table", "[7]"),
    (
        "of a process whose number is another's now",
        '{"write": {"FOLDER/data": {"pid": 1, "cmd": "dvc repro"}}}',
    ),
):
    kind(GROUP, f"rwlock is {_what}", _what != "empty")(partial(_table, _content))


def _killed(shell: str, sent: signal.Signals, folder: Path, draws: random.Random) -> Outcome:
    """DVC alone is killed while its child trains."""
    root = _graph.project(folder, 1)
    run = Run(root, f"exec {TRAIN}", SHELL=shell)
    assert run.trains(root)
    time.sleep(draws.uniform(0, 1))
    run.parts()["dvc"].send_signal(sent)
    assert run.end() == -sent, run.text
    assert run.text.splitlines()[-1].startswith("stopped with a checkpoint"), run.text
    started = time.monotonic()
    again = _graph.heal(root, f"{DOCTOR} && {TRAIN}", TRAINED)
    assert "RESUMED after epoch" in again.text and "mended by rm" in again.text, again.text
    return Outcome(f"the child stops with a checkpoint; {SAME}", seconds=time.monotonic() - started)


for _shell in ("/bin/sh", "/bin/bash"):
    for _sent in (signal.SIGKILL, signal.SIGTERM):
        _name = f"{_sent.name} for dvc while train runs, SHELL={_shell}"
        kind(GROUP, _name, slow=True)(partial(_killed, _shell, _sent))


@kind(GROUP, "SIGKILL for dvc once a training has ended, before it is recorded", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    root = _graph.project(folder, 1)
    run = Run(root, f"exec {TRAIN}")
    assert run.until(lambda: any(root.glob(".resume/*/done")), pause=0.002)
    run.parts()["dvc"].kill()
    assert run.end() == -signal.SIGKILL, run.text
    started = time.monotonic()
    again = _graph.heal(root, f"{DOCTOR} && {TRAIN}", TRAINED)
    assert "it had ended" in again.text, again.text
    _graph.heal(root)
    return Outcome(f"not trained again; {SAME}", seconds=time.monotonic() - started)


@kind(GROUP, "a second dvc repro while the first trains", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    root = _graph.project(folder, 1)
    first = Run(root, f"exec {TRAIN}")
    assert first.trains(root)
    second = _says(root, f"{DOCTOR} && {TRAIN}", 255)
    assert "at work here: process" in second and "is busy, it is being blocked by" in second
    assert first.end() == 0, first.text
    _graph.is_whole(root, TRAINED)
    return Outcome(f"exit 255, is busy; the first writes {SAME}")


@kind(GROUP, "a stage finds its inputs changed", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    root = _graph.project(folder, 1)
    lock, params = (root / "dvc.lock").read_bytes(), (root / "params.yaml").read_text()
    run = Run(root, f"exec {TRAIN}")
    assert run.trains(root)
    (root / "params.yaml").write_text(params.replace("  lr: 0.03", "  lr: 0.04"))
    assert run.end() == 255 and "exited with 4" in run.text, run.text
    assert (root / "dvc.lock").read_bytes() == lock, "DVC recorded what it should not"
    (root / "params.yaml").write_text(params)
    assert "RESUMED after epoch 2, step 0" in _graph.heal(root, TRAIN, TRAINED).text
    return Outcome(f"exit 4, DVC records nothing; put back: {SAME}")


# As it is already, so that the experiment ends with the expected bytes.
SETTING = "-n lucky -S train.lr=0.03"


def _committed(folder: Path) -> Path:
    """A project to experiment in: data is packed, all is committed but a change by hand."""
    root = _graph.project(folder, 1)
    _says(root, "git add -A && git commit -qm packed")
    with (root / "README.md").open("a") as readme:
        readme.write("a change by hand\n")
    return root


def _ended(root: Path, text: str, started: float) -> Outcome:
    """Assert that the experiment went on from where it was, and ended as if never interrupted."""
    seconds = time.monotonic() - started
    assert "RESUMED after epoch" in text, text
    _graph.is_whole(root)
    assert not list(root.glob(".dvc/tmp/exps/**/tmp*")), "a folder was left"
    assert "a change by hand" in (root / "README.md").read_text(), "an edit was lost"
    assert _says(root, "git symbolic-ref HEAD") == "refs/heads/master\n"
    return Outcome(SAME, seconds=seconds)


@kind(GROUP, "kill -9 for dvc exp run", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    root = _committed(folder)
    run = Run(root, f"exec dvc exp run {SETTING}")
    assert run.trains(root)
    run.parts()["dvc"].kill()
    assert run.end() == -signal.SIGKILL
    assert "HEAD: off its branch master" in _says(root, "python -m abn.cli.doctor", 1)
    assert "mended by git symbolic-ref HEAD refs/heads/master" in _says(root, DOCTOR)
    started = time.monotonic()
    return _ended(root, _says(root, f"dvc exp run {SETTING}"), started)


@kind(GROUP, "kill -9 for dvc exp run while it puts changes aside", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    root = _committed(folder)
    run = Run(root, f"exec dvc exp run {SETTING}")
    assert run.until((root / ".git/refs/stash").exists, pause=0.001)
    time.sleep(draws.uniform(0, 0.8))
    run.kill()
    _says(root, DOCTOR)
    assert _says(root, "git symbolic-ref HEAD") == "refs/heads/master\n"
    hidden = _says(root, "git stash show -p; git diff HEAD refs/exps/exec/EXEC_MERGE; true")
    assert "a change by hand" in (root / "README.md").read_text() + hidden, "an edit was lost"
    return Outcome("HEAD on its branch, the changes in the tree, git stash or EXEC_MERGE")


@kind(GROUP, "kill -9 for dvc exp run --temp", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    root = _committed(folder)
    run = Run(root, f"exec dvc exp run --temp {SETTING}")
    assert run.trains(root)
    run.parts()["dvc"].kill()
    assert run.end() == -signal.SIGKILL
    started = time.monotonic()
    text = _says(root, f"dvc exp run --temp {SETTING}")
    assert "of an experiment that was killed" in _says(root, DOCTOR)
    _says(root, "git checkout -q README.md && dvc exp apply lucky")
    return _ended(root, text, started)


def _queued(root: Path) -> Run:
    _says(root, f"dvc exp run --queue {SETTING}")
    return Run(root, "dvc queue start")


def _logs(root: Path) -> str:
    """What the queue's experiments said."""
    return "".join(file.read_text() for file in root.glob(".dvc/tmp/exps/run/*/*.out"))


def _queued_again(root: Path) -> Outcome:
    """As docs/reliability.md says."""
    started = time.monotonic()
    _says(root, "dvc queue remove lucky")
    _queued(root).end()
    _says(root, f"{DOCTOR} && git checkout -q README.md && dvc exp apply lucky")
    return _ended(root, _logs(root), started)


@kind(GROUP, "kill -9 for the training of a queued experiment", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    root = _committed(folder)
    run = _queued(root)
    assert run.trains(root)
    run.parts()["train"].kill()
    run.end()
    assert re.search("lucky .*Failed", _says(root, "dvc queue status"))
    return _queued_again(root)


@kind(GROUP, "kill -9 for the worker of the queue and its experiment", slow=True)
def _(folder: Path, draws: random.Random) -> Outcome:
    root = _committed(folder)
    run = _queued(root)
    assert run.trains(root)
    for process in run.alive():
        if "dvc" in " ".join(process.cmdline()):
            process.kill()
    run.end()
    assert re.search("lucky .*Running", _says(root, "dvc queue status"))
    assert "lucky: called running, but runs nowhere" in _says(root, DOCTOR)
    return _queued_again(root)
