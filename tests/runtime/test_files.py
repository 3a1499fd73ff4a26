"""A file is whole or not there."""

import shutil
from pathlib import Path

import pytest

from abn.runtime import files
from abn.runtime.errors import DiskError


def test_what_was_written_takes_its_place_in_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with files.replacing(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_a_fault_leaves_the_file_that_was_there_and_nothing_else(
    tmp_path: Path, fault: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(fault), files.replacing(path) as part:
        part.write_text("half")
        raise fault
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_and_name_are_on_the_disk_before_and_after_the_swap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "a.txt", []
    monkeypatch.setattr(files, "sync", lambda path: synced.append((path.name, path.exists())))
    with files.replacing(path) as part:
        part.write_text("whole")
    assert synced == [("a.txt.part", True), (tmp_path.name, True)]


def test_room_is_asked_for_with_figures(tmp_path: Path) -> None:
    files.require_room(tmp_path, 1)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DiskError, match=rf"[\d,]+ bytes are needed, [\d,]+ are free; {tmp_path};"):
        files.require_room(tmp_path, 2 * free)


def test_what_the_disk_refuses_is_named(tmp_path: Path) -> None:
    told = pytest.raises(DiskError, match=r"^cannot be written: No such file .*; .*/x; make room")
    with told, files.writing(tmp_path / "x"):
        (tmp_path / "missing" / "x").touch()
