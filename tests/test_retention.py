"""Of the states of trainings goes what is no use any more, and what others need the room of."""

import os
from pathlib import Path

import pytest

from abn import retention
from abn.runtime import locks


@pytest.fixture
def trainings(tmp_path: Path) -> Path:
    """One that can go on, and two that have ended with the weights a and b."""
    for name, weights in {"under way": None, "first": "a", "second": "b"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "state-0001-00000000.json").touch()
        if weights:
            (tmp_path / name / "done").write_text(weights)
    return tmp_path


def left(trainings: Path) -> set[str]:
    return {path.name for path in trainings.iterdir()}


def test_what_has_ended_is_forgotten(trainings: Path) -> None:
    retention.forget(trainings)
    assert left(trainings) == {"under way"}


def test_or_only_what_made_some_weights(trainings: Path) -> None:
    retention.forget(trainings, weights="b")
    assert left(trainings) == {"under way", "first"}


def test_one_can_be_spared(trainings: Path) -> None:
    retention.forget(trainings, spare=trainings / "first")
    assert left(trainings) == {"under way", "first"}


def test_what_another_process_holds_stays(trainings: Path) -> None:
    with locks.alone(trainings / "first" / "lock", "it"):
        retention.forget(trainings)
        assert left(trainings) == {"under way", "first"}


def test_to_disown_a_training_leaves_no_file_that_counts(tmp_path: Path) -> None:
    for name in ("done", "lock", "state-0001-00000000.json", "epoch-0001.json", "epoch-0001.bad"):
        (tmp_path / name).touch()
    retention.disown(tmp_path)
    assert left(tmp_path) == {"lock", "epoch-0001.bad"}


def test_trainings_left_longest_ago_make_room_but_not_one_that_is_under_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for age, name in enumerate(("mine", "new", "old", "busy")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state").write_bytes(bytes(100))
        os.utime(tmp_path / name, (0, 1000 - age))
    with locks.alone(tmp_path / "busy" / "lock", "it"):
        os.utime(tmp_path / "busy", (0, 900))
        retention.make_room(tmp_path, tmp_path / "mine", most=320)
        assert {path.name for path in tmp_path.iterdir()} == {"mine", "new", "busy"}
    assert "removed to make room" in capsys.readouterr().err
