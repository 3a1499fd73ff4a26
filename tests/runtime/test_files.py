"""Atomic writes: the old file or the new one."""

import shutil
from pathlib import Path

import pytest

from abn.runtime import files
from abn.runtime.errors import DiskError


def test_the_file_is_replaced_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with files.replacing(path) as part:
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, fault: type[BaseException]
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(fault), files.replacing(path) as part:
        part.write_text("half")
        raise fault
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, synced = tmp_path / "a.txt", []
    monkeypatch.setattr(files, "sync", lambda path: synced.append((path.name, path.exists())))
    with files.replacing(path) as part:
        part.write_text("whole")
    assert synced == [("a.txt.part", True), (tmp_path.name, True)]


def test_too_little_room_is_an_error_with_numbers(tmp_path: Path) -> None:
    files.require_room(tmp_path, 1)
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DiskError, match=rf"[\d,]+ bytes are needed, [\d,]+ are free; {tmp_path};"):
        files.require_room(tmp_path, 2 * free)


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    refused = pytest.raises(
        DiskError, match=r"^cannot be written: No such file .*; .*/x; make room"
    )
    with refused, files.writing(tmp_path / "x"):
        (tmp_path / "missing" / "x").touch()
