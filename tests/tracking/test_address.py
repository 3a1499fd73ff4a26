"""The store's address is used and shown only as far as a parser vouches for it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from abn.runtime.errors import TrackingError
from abn.tracking import address, outbox
from abn.tracking.client import Store, failure
from tests.tracking.stores import note, sync

PARSED = {
    "postgresql://abn:s3cr/et@host/db": "postgresql://***@host/db",
    "postgresql+psycopg2://abn:s3cr?e#t@h:9/db?key=s3cr": "postgresql+psycopg2://***@h:9/db?***",
    "mysql+pymysql://s3cr@h/d": "mysql+pymysql://***@h/d",
    "postgresql://h/db": "postgresql://h/db",
    "http://127.0.0.1:5000": "http://127.0.0.1:5000",
    "https://abn:s3cr@et@[::1]:80/x": "https://***@[::1]:80/x",
    "https://h/x?token=s3cr": "https://h/x?***",
    "http://h/#s3cr": "http://h/?***",
    "sqlite:////home/me@work/x.db": "sqlite:////home/me@work/x.db",
    "sqlite:///x.db?key=s3cr": "sqlite:///x.db?***",
}
DOUBTFUL = [  # where does the password end, for each of those who may read it?
    "mysql+pymysql://abn:s3@cr/et@h/db",
    "postgresql://abn:s3@cr?et@h/db",
    "postgresql://abn/s3cr:et@h/db",
    "postgresql:abn:s3cr@h/db",
    "postgres//abn:s3cr@h/db",
    "http://abn:s3cr/et@h",
    "http://s3?cr@h",
    "http:abn:s3cr@h",
    "http://[s3cr/",
    "sqlite:///abn:s3cr@h/db",
    "s3cr@h/db",
]


@pytest.mark.parametrize("text", PARSED)
def test_what_is_parsed_is_shown_without_its_secrets(text: str, monkeypatch: Any) -> None:
    monkeypatch.setenv(address.VARIABLE, text)
    address.check()
    assert address.shown() == PARSED[text]
    assert address.has_secret() == ("***" in PARSED[text])


@pytest.mark.parametrize("text", DOUBTFUL)
def test_what_is_not_parsed_is_neither_used_nor_written(text: str, monkeypatch: Any) -> None:
    monkeypatch.setenv(address.VARIABLE, text)
    with pytest.raises(
        TrackingError, match="MLFLOW_TRACKING_URI; set MLFLOW_TRACKING_URI to"
    ) as caught:
        Store()
    assert not any(part in caught.value.line() for part in ("abn:", "s3", "cr", "et@"))
    assert address.shown() == address.VARIABLE and address.has_secret()


REFUSED = {
    "file:./mlruns": ("no longer writes to folders; file:./mlruns; ", "`mlflow migrate-filestore`"),
    "bogus": (
        "no longer writes to folders; bogus; ",
        "set MLFLOW_TRACKING_URI to http://HOST:PORT",
    ),
    "bogus://s3cr": ("MLflow knows no store of this kind; MLFLOW_TRACKING_URI; ", "or unset it"),
    "sqlite://": ("a database without a file is lost at once; sqlite://; ", "sqlite:///FILE.db"),
    "postgresql+psycopg2://abn:s3cr@h/d": ("package psycopg2 is missing", "install it in the"),
    "sqlite:////proc/x.db": ("unable to open database file", "sqlite:////proc/x.db; no result"),
    "sqlite:////dev/full/x.db": ("Error", "sqlite:////dev/full/x.db; no result is lost"),
    "sqlite:///.": ("unable to open database file", "sqlite:///.; no result is lost"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_no_store_can_be_at_is_refused_at_once_with_a_fitting_remedy(
    text: str, monkeypatch: Any
) -> None:
    """MLflow alone tries a database ten times, for 100 seconds."""
    monkeypatch.setenv(address.VARIABLE, text)
    monkeypatch.setattr("time.sleep", None)
    with pytest.raises(Exception) as caught:
        Store()
    line = failure(caught.value).line()
    assert all(words in line for words in REFUSED[text]) and "s3cr" not in line


def test_a_folder_that_the_user_insists_on_is_used(monkeypatch: Any, root: Path) -> None:
    monkeypatch.setenv(address.VARIABLE, "file:./mlruns")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    note("f", 1, 2)
    assert sync() == ["resnet18-s0-f, training: 6 new"]
    assert list(root.glob("mlruns/*/*/metrics/loss"))


def test_a_deleted_experiment_is_named_with_a_command_that_brings_it_back(root: Path) -> None:
    note("f", 1, 2)
    store = Store()
    store._client.delete_experiment(store._experiment)
    with pytest.raises(TrackingError, match="was deleted in MLflow; sqlite:") as caught:
        sync()
    command, path = str(caught.value).split("`")[1], Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{path}:{os.environ['PATH']}"}
    subprocess.run(command, shell=True, check=True, capture_output=True, env=environment)
    assert sync() == ["resnet18-s0-f, training: 6 new"]
    assert not list(outbox.folder().iterdir())
