"""Starting several processes, and the one line printed when they fail."""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from abn.runtime import launch
from abn.runtime.errors import ParamsError


def failure(message: str, exitcode: int) -> Any:
    return SimpleNamespace(message=message, exitcode=exitcode, signal_name=lambda: "SIGKILL")


MINE = failure("error[DISK] it is full; /tmp; make room", 5)
LOST = failure("error[LOST] another process is gone; rank 0; again", 7)
KILLED = failure("Signal 9 received", -9)
STOPPED = failure("stopped with a checkpoint", 143)


@pytest.mark.parametrize(
    ("failures", "line", "code"),
    [
        ([MINE], MINE.message, 5),
        ([LOST, MINE], MINE.message, 5),
        ([LOST, KILLED], "error[LOST] a process ended with SIGKILL; rank 1; run the same", 7),
        ([KILLED, MINE], MINE.message, 5),
        ([LOST], LOST.message, 7),
        ([LOST, STOPPED], STOPPED.message, 143),
        ([failure("", 1)], "error[LOST] a process ended with exit code 1; rank 0; run the same", 7),
    ],
)
def test_the_cause_is_reported_and_not_its_consequences(
    failures: list[Any], line: str, code: int
) -> None:
    error = launch._first_cause(dict(enumerate(failures)))
    assert error.line().startswith(line) and error.exit_code == code


def test_a_worker_hands_its_line_to_the_process_that_started_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "error.json"
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    assert not launch.report("it is full")
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abn")
    assert not launch.report("it is full")  # torchrun itself prints no more than a report
    assert '"message": "it is full"' in file.read_text()
    monkeypatch.setenv("ABN_LAUNCHED", "1")
    assert launch.report("it is full")


@pytest.mark.parametrize(("text", "count"), [("", 1), ("1", 1), ("3", 3)])
def test_the_number_of_processes_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, count: int
) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("ABN_PROCESSES", text)
    assert launch.processes() == count
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "abn")
    assert launch.processes() == 1  # a worker starts none


@pytest.mark.parametrize(
    ("given", "threads"),
    [
        ({"ABN_JOBS": "2"}, "4"),
        ({"ABN_JOBS": "3"}, "2"),
        ({"ABN_JOBS": "99"}, "1"),
        ({"ABN_JOBS": "2", "ABN_PROCESSES": "2"}, "2"),
        ({"ABN_JOBS": "2", "OMP_NUM_THREADS": "7"}, "7"),
    ],
)
def test_jobs_side_by_side_share_eight_cores_and_wait_asleep(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], threads: str
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "environ", given)
    launch.share_cores()
    assert (given["OMP_NUM_THREADS"], given["OMP_WAIT_POLICY"]) == (threads, "PASSIVE")


def test_alone_a_stage_has_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", given)
    launch.share_cores()
    assert given == {}


def test_in_the_queue_threads_wait_asleep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmpabc"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    given: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", given)
    launch.share_cores()
    assert given == {"OMP_WAIT_POLICY": "PASSIVE"}


def test_a_wrong_number_of_jobs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"ABN_JOBS": "many"})
    with pytest.raises(ParamsError, match="wrong value; ABN_JOBS=many"):
        launch.share_cores()
