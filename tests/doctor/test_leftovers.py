"""`abn clean` removes old states and half-written files of ours, and nothing else."""

import argparse
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from abn.cli import clean
from abn.doctor import processes
from abn.experiments import snapshots
from abn.project import paths
from abn.runtime import locks
from abn.runtime.errors import BusyError, DataError

DAY = 86400
FINISHED, UNFINISHED, RECENT, RUNNING = ("f" * 16, "a" * 16, "b" * 16, "c" * 16)
STATE = "state-0001-00000000.safetensors"
COPY = f"{FINISHED} copy"
Run = Callable[..., str]


def write(path: str | Path, days: float = 0, size: int = 0) -> Path:
    """A file of `size` bytes, last written `days` ago."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(b"x" * size)
    os.utime(path, (time.time() - days * DAY,) * 2)
    return Path(path)


@pytest.fixture(autouse=True)
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project with states of four trainings, half-written files, and files of a user."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processes, "at_work", lambda root: [])
    monkeypatch.setenv("ABN_WAIT", "0")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {download: {}, train: {}}")
    for name, days in {FINISHED: 8, UNFINISHED: 8, RECENT: 6, RUNNING: 8, COPY: 8}.items():
        write(paths.RESUME / name / STATE, days, 3_000_000)
    for name in (FINISHED, RECENT, RUNNING):
        write(paths.RESUME / name / paths.DONE, 8)
    write(paths.RESUME / UNFINISHED / "notes.txt", 8)
    write("data/.train.safetensors.abn.part", size=1_000_000)
    write(".checkpoint.abn.part/model.safetensors")
    write("data/mine.part")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """`run(yes=True)`: what the command prints."""
    default = {"yes": False, "days": 7.0, "unfinished": False}

    def run(**given: object) -> str:
        assert clean.run(argparse.Namespace(**default | given)) == 0
        return capsys.readouterr().out

    return run


def there() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


def test_without_yes_it_says_what_each_costs_and_removes_nothing(run: Run) -> None:
    before = there()
    text = run()
    assert there() == before
    assert f"3.0 MB  .resume/{FINISHED}: states of a finished training, 8 days old; may go" in text
    assert f".resume/{UNFINISHED}: states of a training that can go on, 8 days old; kept" in text
    assert f".resume/{RECENT}: states of a finished training, 6 days old; kept: recent" in text
    assert "1.0 MB  data/.train.safetensors.abn.part" in text
    assert "7.0 MB  to remove it, add --yes" in text  # two finished and a pack
    assert "dvc gc --workspace --all-branches --all-tags --all-experiments --dry" in text


def test_yes_removes_what_is_ours_and_old_and_nothing_else(run: Run) -> None:
    before = there()
    lock = paths.RESUME / RUNNING / "lock"
    with locks.alone(lock, "a training"):
        os.utime(lock, (0, 0))  # it has been running for long
        assert "4.0 MB  removed" in run(yes=True)
    gone = {f".resume/{FINISHED}/{STATE}", f".resume/{FINISHED}/{paths.DONE}"}
    gone |= {"data/.train.safetensors.abn.part", ".checkpoint.abn.part/model.safetensors"}
    assert before - there() == gone
    assert not Path(".resume", FINISHED).exists() and not Path(".checkpoint.abn.part").exists()


def test_unfinished_work_goes_only_if_asked_for_and_other_files_stay_beside_it(run: Run) -> None:
    run(yes=True, unfinished=True)
    assert [path.name for path in Path(".resume", UNFINISHED).iterdir()] == ["notes.txt"]
    assert Path(".resume", COPY, STATE).exists()


def test_links_are_not_followed(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    write(other / STATE, 8), write(other / paths.DONE, 8)
    shutil.rmtree(Path(".checkpoint.abn.part"))
    Path(".checkpoint.abn.part").symlink_to(other)
    Path(".resume", "e" * 16).symlink_to(other)
    run(yes=True, unfinished=True)
    assert sorted(path.name for path in other.iterdir()) == [paths.DONE, STATE]


def test_a_folder_that_is_a_link_is_not_looked_into(run: Run, tmp_path: Path) -> None:
    """Another clone may be writing there, under locks of its own."""
    shutil.move("data", tmp_path / "shared")
    Path("data").symlink_to(tmp_path / "shared")
    assert ".train.safetensors" not in run(yes=True)
    assert (tmp_path / "shared/.train.safetensors.abn.part").exists()


def test_a_cache_that_others_may_use_is_named_as_such(run: Run) -> None:
    assert "--projects" not in run()
    Path(".dvc/config").write_text("[cache]\n    dir = ../../elsewhere\n")
    snapshots.cache.cache_clear()
    text = run()
    assert (
        "That cache is outside of this project. If others use it, name them with --projects" in text
    )


def test_settings_of_dvc_that_cannot_be_read_are_one_line(run: Run) -> None:
    Path(".dvc/config").write_text("[cache\n")
    snapshots.cache.cache_clear()
    with pytest.raises(DataError, match="correct DVC's settings there"):
        run()


def test_nothing_goes_while_a_stage_or_dvc_runs(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    before = there()
    with (
        locks.alone(paths.LOCKS / "train.lock", "the stage train"),
        pytest.raises(BusyError, match="the stage train is under way"),
    ):
        run(yes=True)
    monkeypatch.setattr(processes, "at_work", lambda root: ["process 7 (dvc repro)"])
    with pytest.raises(BusyError, match="something is at work here; process 7"):
        run(yes=True)
    assert there() == before


def test_the_cost_of_dvcs_cache_is_said_and_its_copies_are_named(run: Run) -> None:
    write(".dvc/cache/files/md5/ab/cdef", size=2_000_000)
    write(".dvc/tmp/exps/tmpabc/data/train.safetensors", size=5_000_000)
    text = run(yes=True)
    assert "2.0 MB" in text and "DVC's cache, 0 experiments" in text
    assert "5.0 MB" in text and "tmpabc: DVC's copy of the project" in text
    assert Path(".dvc/tmp/exps/tmpabc/data/train.safetensors").exists()
