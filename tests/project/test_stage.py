"""How a stage ends: its exit code, and one line for what a user can mend."""

import errno
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from abn.config.params import Params
from abn.project import paths, stage
from abn.project.inputs import Inputs
from abn.runtime.errors import BusyError, DataError, NotFiniteError, ParamsError
from abn.runtime.signals import Stopped

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that runs the train stage of the project, in no hurry to wait for others."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["stages/train.py"])
    monkeypatch.setenv("ABN_WAIT", "0.1")
    for name in ("ABN_DEBUG", "DVC_ROOT", "TORCHELASTIC_RUN_ID", "ABN_LAUNCHED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(stage.signal, "signal", lambda *call: None)
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
    (FULL, 5, "error[DISK] No space left on device; checkpoint.part; mend that; the same"),
    (CUDA, 7, "error[DEVICE] CUDA out of memory; train.batch_size = 32; try 16, or smaller"),
    (CPU, 7, "error[DEVICE] [enforce fail] DefaultCPUAllocator: can't allocate memory: you"),
    (MemoryError(), 7, "error[DEVICE] out of memory; train.batch_size = 32; try 16"),
    (Stopped(), 143, "stopped with a checkpoint; the same command goes on from there\n"),
    (Stopped("it is late"), 143, "it is late\n"),
    (KeyboardInterrupt(), 130, "stopped; the same command runs this stage again\n"),
]


@pytest.mark.parametrize("fault, code, words", ENDS, ids=[repr(end[0])[:30] for end in ENDS])
def test_what_a_user_can_mend_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], fault: BaseException, code: int, words: str
) -> None:
    found, said = ended(fault, capsys)
    assert found == code and said.startswith(words) and len(said.splitlines()) == 1


def test_a_stage_that_ends_well_says_nothing_and_leaves_no_lock(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ended(None, capsys) == (0, "")
    assert list(paths.LOCKS.iterdir()) == []


def test_a_fault_of_our_own_is_shown_whole(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        ended(ZeroDivisionError(), capsys)


def test_when_debugging_every_fault_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABN_DEBUG", "1")
    with pytest.raises(DataError):
        ended(DataError("a", "b", "c"), capsys)


def test_a_second_one_in_the_same_tree_is_told_who_is_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with stage._alone("train"):
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
def test_a_worker_whose_peer_is_gone_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    lost = RuntimeError(words)
    with pytest.raises(RuntimeError):
        ended(lost, capsys)  # alone it has none
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abn")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(stage.signals, "end_with_parent", lambda: None)
    code, said = ended(lost, capsys)
    assert code == 7 and said.startswith("error[LOST] another process of this training is gone")
