"""The outbox keeps whole lines, one training at a time, and never fails a training."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from abn.tracking import outbox
from tests.tracking import stores

WAITING = """
import sys
from abn.tracking import outbox
with outbox.training("f", {}, {}):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def box() -> Path:
    """The file of the training "f"."""
    return outbox.folder() / "f.jsonl"


def test_lines_are_read_back_with_the_times_at_which_they_were_added(box: Path) -> None:
    with outbox.training("f", {"url": "https://me:secret@host/x?key"}, {"device": "cpu"}) as add:
        add("row", {"epoch": 1, "loss": 2.5})
    start, row = outbox.read(box)[1]
    tags = {"device": "cpu", "git.commit": ""}
    assert start["start"] == {"params": {"url": "https://***@host/x"}, "tags": tags}
    assert row["row"] == {"epoch": 1, "loss": 2.5} and row["time"] >= start["time"] > 1.7e12


def test_an_outbox_is_discarded_only_after_its_training(box: Path) -> None:
    with outbox.training("f", {}, {}):
        outbox.discard(box)
        assert box.exists()
    outbox.discard(box)
    assert not box.exists()


@pytest.mark.parametrize("torn", [b'{"time": 1, "row": {"lo', b"\xff\x00{", b"[1]", b'{"row": 1}'])
def test_a_torn_line_is_left_out_and_does_not_corrupt_the_next(box: Path, torn: bytes) -> None:
    with outbox.training("f", {}, {}) as add:
        with box.open("ab") as file:
            file.write(torn)
        add("end", {})
    assert [list(line)[1] for line in outbox.read(box)[1]] == ["start", "end"]


def test_the_file_is_locked_until_its_training_dies_even_by_kill_9(box: Path) -> None:
    words, pipe = [sys.executable, "-c", WAITING], subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout and other.stdout.readline() == "open\n"
        assert outbox.read(box)[0]
        other.kill()
    assert not outbox.read(box)[0]


def test_a_full_disk_is_one_warning_and_the_training_goes_on(box: Path, capsys: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with outbox.training("f", {}, {}) as add:
        resource.setrlimit(resource.RLIMIT_FSIZE, (box.stat().st_size + 5, hard))
        try:
            add("row", {"epoch": 1})
            add("row", {"epoch": 2})
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        add("row", {"epoch": 3})
    assert [line["row"]["epoch"] for line in outbox.read(box)[1][1:]] == [1, 2, 3]
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and str(box) in error and "training goes on" in error


def test_a_folder_that_cannot_be_made_is_one_warning(box: Path, capsys: Any) -> None:
    box.parent.parent.mkdir()
    box.parent.write_text("a file")
    stores.note("f", 1, 2)
    assert capsys.readouterr().err.count("\n") == 1
