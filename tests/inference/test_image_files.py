"""PATHS of `abn predict`: files, folders, patterns and standard input."""

import io
import sys
from pathlib import Path

import pytest

from abn.inference.image_files import find


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos, a text and something hidden in `photos`; it is the working folder's."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.JPG", "photos/a/z.png", "photos/a/notes.txt", "photos/README"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    for name in ("photos/.thumbs/b.jpg", "photos/.c.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def names(*paths: str) -> list[str]:
    return [str(path) for path in find(paths).files]


def test_a_folder_gives_the_images_below_it_and_counts_the_rest_by_suffix() -> None:
    found = find(["photos"])
    assert [str(path) for path in found.files] == ["photos/b.JPG", "photos/a/z.png"]
    assert found.skipped == {".txt": 1, "no suffix": 1}


def test_a_file_that_is_named_is_kept_whatever_its_name_and_each_file_is_taken_once() -> None:
    given = "photos/a/notes.txt", "photos/b.JPG", "./photos/a/../b.JPG", "missing.png"
    assert names(*given) == ["photos/a/notes.txt", "photos/b.JPG", "missing.png"]


def test_a_pattern_is_expanded_unless_a_file_has_that_very_name() -> None:
    assert names("photos/**/*.png") == ["photos/a/z.png"]
    assert names("photos/*.gif") == ["photos/*.gif"]
    Path("[1].png").touch()
    Path("1.png").touch()
    assert names("[1].png") == ["[1].png"]


@pytest.mark.parametrize("between", [b"\n", b"\0"])
def test_a_dash_reads_names_from_standard_input(
    between: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = io.BytesIO(between.join([b"photos/b.JPG", b"photos/a", b""]))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(lines))
    assert names("-") == ["photos/b.JPG", "photos/a/z.png"]


def test_nothing_is_taken_from_the_folder_that_is_written_to(tmp_path: Path) -> None:
    assert find(["photos"], tmp_path / "photos" / "a").files == [Path("photos/b.JPG")]
