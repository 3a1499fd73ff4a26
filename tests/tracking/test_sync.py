"""`abn sync` brings what is missing, says so in a line per run, and fails in one line."""

import argparse
from typing import Any

import pytest
from filelock import FileLock

from abn.cli import sync
from abn.runtime.errors import DataError, TrackingError
from abn.tracking import client, outbox
from tests.tracking.stores import curve, note


def test_a_second_sync_adds_nothing(capsys: Any) -> None:
    note("f", 1, 2, end=False)
    options = argparse.Namespace()
    assert sync.run(options) == sync.run(options) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == "resnet18-s0-f, training: 6 new"  # 2 x (epoch, loss), 2 params
    assert second == "resnet18-s0-f, training: nothing new"
    assert curve("f") == [(1, 9.0), (2, 8.0)]


def test_a_store_that_cannot_be_reached_is_one_line_without_its_password(monkeypatch: Any) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    note("f", 1, 2)
    with pytest.raises(TrackingError) as caught:
        sync.run(argparse.Namespace())
    line = caught.value.line()
    assert line.startswith("error[TRACKING] ConnectionRefusedError; http://***@127.0.0.1:9; ")
    assert "secret" not in line and len(list(outbox.folder().iterdir())) == 1


def test_experiments_that_git_does_not_show_are_an_error(root: Any, monkeypatch: Any) -> None:
    (root / ".git").mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="git is not installed"):
        sync.run(argparse.Namespace())


def test_a_lock_that_another_process_holds_is_named_as_that(root: Any, monkeypatch: Any) -> None:
    path = root / ".cache" / "mlflow.lock"
    path.parent.mkdir()
    monkeypatch.setattr(client, "WAIT", 0)
    with FileLock(path), pytest.raises(TrackingError, match="another process of this project"):
        sync.run(argparse.Namespace())
