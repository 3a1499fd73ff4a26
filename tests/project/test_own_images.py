"""Images that git does not carry, in DVC's temporary copies of the project."""

import os
import subprocess
from pathlib import Path

import pytest

from abn.project import own_images, paths


def put(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", folder, *words], check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with images, of which git carries two; a copy of it is the current folder."""
    project, copy = tmp_path / "project", tmp_path / "project/.dvc/tmp/exps/copy"
    git(tmp_path, "init", "-q", "project")
    put(project, "images/.gitkeep", "images/cat/tracked.png")
    git(project, "add", "images")
    put(project, "images/cat/1.png", "images/dog/[2] é.png", "images/dog/.hidden", "other/3.png")
    (project / "images/empty").mkdir()
    (project / "images/linked").symlink_to(project / "other")
    (project / "images/cat/file.png").symlink_to(project / "other/3.png")
    git(tmp_path, "init", "-q", str(copy))
    put(copy, "images/.gitkeep", "images/cat/tracked.png")
    git(copy, "add", "images")
    monkeypatch.chdir(copy)
    monkeypatch.setattr(paths, "ROOT", project)
    return project


def tree(folder: Path) -> dict[str, str | None]:
    """What is below `folder`, as DVC sees it: the content of files, and links to folders."""
    found: dict[str, str | None] = {}
    for place, folders, files in os.walk(folder):
        for name in folders:
            found[str(Path(place, name).relative_to(folder))] = None
        for name in files:
            path = Path(place, name)
            found[str(path.relative_to(folder))] = path.read_text()
    return found


def test_a_copy_gets_a_link_to_each_image_that_git_does_not_carry(project: Path) -> None:
    own_images.link(Path("images"))
    assert tree(Path("images")) == tree(project / "images")
    assert not Path("images/cat/tracked.png").is_symlink()
    assert Path("images/cat/1.png").readlink() == project / "images/cat/1.png"
    assert Path("images/linked").is_symlink()  # which is then refused as it is in the project
    assert not Path("images/dog").is_symlink() and not Path("other").exists()


def test_a_copy_that_has_its_own_images_is_left_alone(project: Path) -> None:
    put(Path(), "images/dog/copied.png")
    before = tree(Path("images"))
    own_images.link(Path("images"))
    assert tree(Path("images")) == before


@pytest.mark.parametrize("carrier", ["link", "dvc"])
def test_images_that_git_or_dvc_carries_are_left_to_them(project: Path, carrier: str) -> None:
    if carrier == "link":
        Path("images").rename("gone")
        Path("images").symlink_to(project / "other")
    else:
        Path("images.dvc").touch()
    before = tree(Path("images"))
    own_images.link(Path("images"))
    assert tree(Path("images")) == before


def test_nothing_is_linked_in_the_project_itself(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    before = tree(Path("images"))
    own_images.link(Path("images"))
    assert tree(Path("images")) == before
