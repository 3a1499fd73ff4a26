"""Starting several processes, and the one line printed when they fail."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from abn.runtime import launch


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
