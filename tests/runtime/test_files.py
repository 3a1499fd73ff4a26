"""Atomic writes: the old file or the new one."""

import re
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
    assert synced == [(files.partial(path).name, True), (tmp_path.name, True)]


def test_a_users_file_with_the_usual_name_of_a_partial_one_is_left_alone(tmp_path: Path) -> None:
    theirs, folder = tmp_path / "a.txt.part", tmp_path / "a.part"
    theirs.write_text("mine")
    folder.mkdir()
    with files.replacing(tmp_path / "a.txt") as part:
        part.write_text("whole")
    with files.replacing_folder(tmp_path / "a", OURS) as new:
        (new / "one.png").touch()
    assert theirs.read_text() == "mine" and folder.is_dir()


def test_what_a_killed_process_left_is_not_written_through_a_link(tmp_path: Path) -> None:
    path, other = tmp_path / "a.txt", tmp_path / "other"
    other.write_text("mine")
    files.partial(path).symlink_to(other)
    with files.replacing(path) as part:
        part.write_text("whole")
    assert (path.read_text(), other.read_text(), path.is_symlink()) == ("whole", "mine", False)


OURS = re.compile(r"\w+\.png")


def filled(folder: Path, *names: str) -> Path:
    with files.replacing_folder(folder, OURS) as part:
        for name in names:
            (part / name).touch()
    return folder


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = filled(tmp_path / "folder", "one.png", "two.png")
    (folder / ".DS_Store").touch()
    filled(folder, "three.png")
    assert [path.name for path in folder.iterdir()] == ["three.png"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("theirs", ["notes.txt", "below/one.png", "one.png.txt", ".hidden"])
def test_a_folder_with_a_file_of_the_users_is_not_replaced(tmp_path: Path, theirs: str) -> None:
    folder = filled(tmp_path / "folder", "one.png")
    (folder / theirs).parent.mkdir(exist_ok=True)
    (folder / theirs).write_text("mine")
    named = re.escape(str(folder / theirs.partition("/")[0]))
    with pytest.raises(DiskError, match=f"^not written by this project, .*; {named}; move it"):
        filled(folder, "two.png")
    assert (folder / theirs).read_text() == "mine" and (folder / "one.png").exists()
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("name", [".", "..", "../.."])
def test_the_working_folder_and_those_above_are_not_replaced(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a/b")
    with pytest.raises(DiskError, match="the working folder is in it"):
        filled(Path(name), "one.png")
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a/b"]


def test_a_file_or_a_link_in_the_place_of_a_folder_is_not_replaced(tmp_path: Path) -> None:
    """A link may lead to somebody's own models."""
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("mine")
    link.symlink_to(filled(tmp_path / "models", "one.png"))
    for path in (file, link):
        with pytest.raises(DiskError, match=f"{path}; move it"):
            filled(path, "one.png")
    assert file.read_text() == "mine" and link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [file, link, tmp_path / "models"]


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
