"""`abn register`: a network that MLflow's own server serves, map included."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

import abn
from abn.cli.main import main
from abn.inference import registry
from abn.models import checkpoint
from abn.tracking import outbox
from abn.tracking.address import address
from tests import toys
from tests.tracking import stores


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """The current folder, with a store in its database."""
    with stores.repository(tmp_path):
        yield tmp_path


@pytest.fixture
def model(root: Path) -> Path:
    """The checkpoint of an untrained network in a project with validation images."""
    toys.saved(root / "checkpoint", toys.NAMES, canvas=32, unlike_below=100.0)
    toys.pack(root / "data/val.safetensors", toys.split(4))
    (root / "dvc.yaml").touch()
    (root / "params.yaml").touch()
    (root / "dvc.lock").write_text("stages: {}")
    return root / "checkpoint/model.safetensors"


def train(model: Path) -> None:
    """An outbox that says which training made the weights."""
    with outbox.training("f", {"arch": "resnet18", "seed": 0}, {}) as add:
        add("row", {"epoch": 1, "loss": 1.0})
        add("end", {"weights.sha256": checkpoint.sha256(model)})


def test_a_server_has_time_to_store_the_weights(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    assert main(["register", "net"]) == 8  # no run has these weights; the store was made
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "120"


def test_weights_that_no_run_has_are_refused(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["register", "net"]) == 8
    assert "no run in MLflow has these weights" in capsys.readouterr().err


@pytest.mark.parametrize("alias", ["", "the best", "latest", "Latest", "v1", "V12", "x" * 256])
def test_an_alias_that_mlflow_would_refuse_later_is_refused_at_once(
    alias: str,
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It refuses an alias after the version is made, which would be left without one."""
    train(model)
    monkeypatch.setattr(registry, "_log", lambda *_: pytest.fail("registered"))
    assert main(["register", "net", "--alias", alias]) == 2
    assert f"error[PARAMS] not an alias; --alias {alias!r}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", " ", ".", "..", "me/net", "net:1", "x" * 257])
def test_a_name_that_mlflow_refuses_is_one_line(
    name: str, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["register", name]) == 2
    assert "error[PARAMS] not a name for a model; NAME '" in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"junk"])
def test_what_is_no_checkpoint_is_not_registered(
    content: bytes | None, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.unlink()
    if content is not None:
        model.write_bytes(content)
    assert main(["register", "net"]) == 3
    line = capsys.readouterr().err
    assert line.startswith("error[DATA] ") and "checkpoint/model.safetensors" in line


def test_the_example_is_a_validation_image(model: Path) -> None:
    image = Image.open(io.BytesIO(registry.example(model.parents[1] / "data/val.safetensors")))
    assert (image.format, image.size) == ("PNG", (32, 32))
    assert image.getpixel((0, 0)) == tuple(toys.split(4).images[0, 0, 0].tolist())


@pytest.mark.filterwarnings("default")  # MLflow's own
@pytest.mark.parametrize(("below", "unlike"), [(100.0, True), (-100.0, False), (None, None)])
def test_an_answer_says_whether_the_image_is_unlike_the_training_data(
    tmp_path: Path, below: float | None, unlike: bool | None
) -> None:
    """The energy of an untrained network is near log(4) = 1.4."""
    from abn.inference import mlflow_model  # here: MLflow warns while it is imported

    weights = toys.saved(tmp_path / "checkpoint", toys.NAMES, canvas=32, unlike_below=below)
    network = mlflow_model.Network()
    network.load_context(SimpleNamespace(artifacts={registry.ARTIFACT: str(weights)}))
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    (answer,) = network.predict(None, pd.DataFrame({"image": [file.getvalue()]}))
    assert answer["unlike"] is unlike
    assert {column.name for column in registry.signature().outputs} == answer.keys()


@pytest.mark.filterwarnings("default")  # MLflow's own
@pytest.mark.slow
def test_the_server_of_a_registered_network_answers_with_class_and_map(
    model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient, artifacts

    train(model)
    assert main(["register", "net", "--alias", "best"]) == 0
    out, err = capfd.readouterr()
    assert out.splitlines()[-1] == "models:/net/1" and "type hint" not in err
    client = MlflowClient(address())
    version = client.get_model_version_by_alias("net", "best")
    run = stores.run("f")
    assert (str(version.version), version.run_id) == ("1", run.info.run_id)
    assert run.info.status == "FINISHED"
    folder = Path(artifacts.download_artifacts("models:/net/1", tracking_uri=address()))
    names = {path.name for path in folder.rglob("*")}
    assert "model.safetensors" in names and not {n for n in names if n.endswith(".pkl")}

    image = toys.split(4).images[1].numpy()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    expected = abn.load(model, "cpu").predict(image)
    answer = asked(base64.b64encode(file.getvalue()).decode())
    assert answer["class"] == expected.label
    assert answer["classes"] == pytest.approx(expected.classes, abs=1e-5)
    assert answer["unlike"] is expected.unlike is True  # no energy of an untrained network is 100
    assert torch.tensor(answer["map"]).numpy() == pytest.approx(expected.map, abs=1e-5)


def asked(image: str) -> dict[str, Any]:
    """What MLflow's own server says of the image file `image`, base64."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/net@best"]
    words += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    env = os.environ | {"MLFLOW_TRACKING_URI": address(), "NO_PROXY": "127.0.0.1"}
    url = f"http://127.0.0.1:{port}"
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": [[image]]}}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/invocations", body, headers)
    with subprocess.Popen(words, env=env, start_new_session=True) as server:
        try:
            stores.until(lambda: server.poll() is not None or answers(f"{url}/ping"))
            with urllib.request.urlopen(request, timeout=120) as response:
                return json.load(response)["predictions"][0]
        finally:
            os.killpg(server.pid, 15)


def answers(url: str) -> bool:
    try:
        return urllib.request.urlopen(url, timeout=60).status == 200
    except OSError:
        return False
