"""How a stage ends: its exit code, and one line for what a user can fix."""

import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from abn.config.params import Params
from abn.project import paths, stage
from abn.project.inputs import Inputs
from abn.runtime import locks
from abn.runtime.errors import BusyError, DataError, NotFiniteError, ParamsError
from abn.runtime.signals import Stopped

ROOT = Path(__file__).parents[2]
HANDLERS: list[Any] = []  # signal handlers that a stage has installed


@pytest.fixture(autouse=True)
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that runs the train stage of the project, which does not wait long for a lock."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])
    monkeypatch.setenv("ABN_WAIT", "0.1")
    for name in ("ABN_DEBUG", "DVC_ROOT", "TORCHELASTIC_RUN_ID", "ABN_LAUNCHED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(stage.signal, "signal", lambda *call: HANDLERS.append(call))
    monkeypatch.setattr(paths, "LOCKS", tmp_path / "locks")


def ended(fault: BaseException | None, capsys: pytest.CaptureFixture[str]) -> tuple[Any, str]:
    """The exit code and the words of a stage in which `fault` is raised."""

    def main(params: Params, inputs: Inputs) -> None:
        if fault:
            raise fault

    try:
        stage.run(main)
    except SystemExit as end:
        return end.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


FULL = OSError(errno.ENOSPC, "No space left on device", "checkpoint.part")
CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...")
CPU = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
ENDS: list[tuple[BaseException, int, str]] = [
    (ParamsError("a", "b", "c"), 2, "error[PARAMS] a; b; c\n"),
    (DataError("a\nb", "b", "c"), 3, "error[DATA] a b; b; c\n"),
    (NotFiniteError("a", "b", "c"), 6, "error[NOTFINITE] a; b; c\n"),
    (BusyError("a", "b", "c"), 75, "error[BUSY] a; b; c\n"),
    (FULL, 5, "error[DISK] No space left on device; checkpoint.part; make room or"),
    (CUDA, 7, "error[DEVICE] CUDA out of memory; train.batch_size = 32; try 16, or smaller"),
    (CPU, 7, "error[DEVICE] [enforce fail] DefaultCPUAllocator: can't allocate memory: you"),
    (MemoryError(), 7, "error[DEVICE] out of memory; train.batch_size = 32; try 16"),
    (Stopped(), 143, "stopped with a checkpoint; the same command continues from there\n"),
    (Stopped("it is late"), 143, "it is late\n"),
    (KeyboardInterrupt(), 130, "stopped; the same command runs this stage again\n"),
]


@pytest.mark.parametrize("fault, code, words", ENDS, ids=[repr(end[0])[:30] for end in ENDS])
def test_what_a_user_can_fix_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], fault: BaseException, code: int, words: str
) -> None:
    found, said = ended(fault, capsys)
    assert found == code and said.startswith(words) and len(said.splitlines()) == 1


def test_a_stage_that_ends_well_says_nothing_and_leaves_no_lock(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(None, capsys) == (0, "")
    assert list(paths.LOCKS.iterdir()) == []


def test_a_bug_shows_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError(), capsys)


def test_with_abn_debug_every_error_shows_its_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABN_DEBUG", "1")
    with pytest.raises(DataError):
        ended(DataError("a", "b", "c"), capsys)


def test_a_second_run_in_the_same_tree_is_refused_and_names_the_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with locks.alone(paths.LOCKS / "train.lock", "the stage train"):
        code, said = ended(None, capsys)
    assert code == 75 and said.startswith("error[BUSY] the stage train is under way; process ")


@pytest.mark.parametrize(
    "words",
    [
        "[gloo/transport/tcp/pair.cc] Connection closed by peer [127.0.0.1]:4711",
        "Application timeout caused pair closure",
        "Timed out waiting 5000ms for recv operation to complete",
    ],
)
def test_a_worker_that_lost_its_peer_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    lost = RuntimeError(words)
    with pytest.raises(RuntimeError):
        ended(lost, capsys)  # a single process has no peer
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abn")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(stage.signals, "end_with_parent", lambda: None)
    code, said = ended(lost, capsys)
    assert code == 7 and said.startswith("error[LOST] another process of this training died")


@pytest.mark.parametrize("fault", [None, KeyboardInterrupt(), DataError("a", "b", "c")])
def test_a_signal_while_the_interpreter_exits_has_its_default_effect(
    capsys: pytest.CaptureFixture[str], fault: BaseException | None
) -> None:
    """An exit code raised there would only be printed: "Exception ignored in ... SystemExit"."""
    ended(fault, capsys)
    assert HANDLERS[-1] == (signal.SIGTERM, signal.SIG_DFL)


def started(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python ARGUMENTS` in `folder`."""
    command, env = [sys.executable, *arguments], os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)


def test_wrong_params_are_refused_before_torch_is_imported_and_nothing_is_written(
    tmp_path: Path,
) -> None:
    params = (ROOT / "params.yaml").read_text().replace("arch: resnet18", "arch: resnet19")
    (tmp_path / "params.yaml").write_text(params)
    done = started(tmp_path, "-X", "importtime", "-m", "stages.train")
    assert not re.search(r"\| +torch$", done.stderr, re.M)
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    assert done.returncode == 2 and line.startswith("error[PARAMS] ") and "resnet19" in line
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_help_says_what_the_stage_does() -> None:
    done = started(ROOT, "-m", "stages.train", "--help")
    assert done.returncode == 0 and done.stderr == ""
    assert "Train the network: data/ -> checkpoint/" in done.stdout
    assert "params.yaml" in done.stdout and "ABN_PROCESSES=N" in done.stdout


@pytest.mark.parametrize(
    ("command", "code", "end"),
    [
        (["-m", "stages.trian"], 1, "No module named stages.trian\n"),
        (["-m", "stages.download", "extra"], 2, "error: unrecognized arguments: extra\n"),
        (["-mstages.download", "--fast"], 2, "error: unrecognized arguments: --fast\n"),
    ],
)
def test_a_misspelt_stage_or_command_has_no_traceback(
    command: list[str], code: int, end: str
) -> None:
    done = started(ROOT, *command)
    assert done.returncode == code and done.stderr.endswith(end)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("broken", [None, "not: [yaml", "arch: resnet19"])
def test_help_needs_no_valid_params(tmp_path: Path, broken: str | None) -> None:
    if broken:
        (tmp_path / "params.yaml").write_text(broken)
    done = started(tmp_path, "-m", "stages.download", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m stages.download [-h]")


def test_too_little_memory_to_load_a_library_is_one_line() -> None:
    command = f"ulimit -v 900000; exec {sys.executable} -m stages.evaluate"  # torch needs more
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, text=True, capture_output=True)
    line = "error[DEVICE] out of memory; the stage evaluate; free memory; run the same command"
    assert done.returncode == 7 and done.stderr == f"{line} again\n"
