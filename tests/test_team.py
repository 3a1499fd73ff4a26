"""A team: code by git, results by a DVC remote, runs and models by an MLflow server with passwords.

Needs `pip install dvc-s3 'moto[server]' 'mlflow[auth]'`.
"""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import graph
from tests.graph import output

for module in ("dvc_s3", "moto.server", "flask_wtf"):
    pytest.importorskip(module, reason="needs dvc-s3, moto[server] and mlflow[auth]")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # those of moto and botocore

MODEL = "checkpoint/model.safetensors"
ADMIN, PASSWORD, MEMBERS = "admin", "correct horse battery", "staple of a member"
AUTH = """[mlflow]
default_permission = EDIT
database_uri = sqlite:///{folder}/users.db
admin_username = {user}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""
MEMBER = f"""
import os
from mlflow.server import get_app_client
get_app_client("basic-auth", os.environ["MLFLOW_TRACKING_URI"]).create_user("ann", "{MEMBERS}")
"""
RUNS = """
from mlflow import MlflowClient
client = MlflowClient()
for run in client.search_runs([each.experiment_id for each in client.search_experiments()]):
    print(run.info.run_name, run.info.status, run.data.params["arch"], len(run.data.metrics))
"""


@pytest.fixture
def s3() -> Iterator[str]:
    """The address of an S3 server."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[str]:
    """The address of `mlflow server`: SQLite, artifacts served, users with passwords."""
    folder = tmp_path / "server"
    folder.mkdir()
    config = folder / "auth.ini"
    config.write_text(AUTH.format(folder=folder, user=ADMIN))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    words = f"--host 127.0.0.1 --port {port} --workers 1 --app-name basic-auth --serve-artifacts"
    store = "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"
    command = [sys.executable, "-m", "mlflow", "server", *words.split(), *store]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    secrets = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "secret",
    }
    secrets["MLFLOW_AUTH_ADMIN_PASSWORD"] = PASSWORD
    with running(command, folder, secrets) as server:
        while not answers(port):
            assert server.poll() is None, (folder / "log.txt").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def running(
    command: list[str], folder: Path, secrets: dict[str, str]
) -> Iterator["subprocess.Popen[bytes]"]:
    """A server and all that it starts, for the block."""
    with (folder / "log.txt").open("w") as log:
        env = os.environ | secrets
        server = subprocess.Popen(
            command, env=env, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
    try:
        yield server
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def digest(root: Path) -> str:
    return hashlib.sha256((root / MODEL).read_bytes()).hexdigest()


def test_one_trains_and_the_others_have_weights_runs_and_models(
    tmp_path: Path, s3: str, mlflow: str
) -> None:
    server = {"MLFLOW_TRACKING_URI": mlflow, "ABN_TRACKING": "on"}
    admin = server | {"MLFLOW_TRACKING_USERNAME": ADMIN, "MLFLOW_TRACKING_PASSWORD": PASSWORD}
    mine = server | {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": MEMBERS}
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"} | {
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": s3
    }  # fmt: skip
    origin, folder = tmp_path / "origin.git", tmp_path / "remote"
    output(graph.state(0), f"git clone -q --bare . {origin}")
    first = clone(origin, tmp_path / "first")
    output(
        first, 'python -c \'import boto3; boto3.client("s3").create_bucket(Bucket="team")\'', **keys
    )
    output(first, f"dvc remote add -q -d team s3://team/abn && dvc remote add -q disk {folder}")
    output(first, f"python -c '{MEMBER}'", **admin)
    output(first, "dvc repro -q train", **mine)
    output(first, "git commit -qam trained && git push -q origin HEAD")
    for remote in ("team", "disk"):
        output(first, f"python -m dvc push -q -r {remote}", **keys)
        other = clone(origin, tmp_path / remote)
        assert not (other / MODEL).exists()
        output(other, f"python -m dvc pull -q -r {remote} checkpoint", **keys)
        assert digest(other) == digest(first)

    output(first, "python -m abn sync", **mine)  # the process beside the training may be late
    (run,) = output(first, f"python -c '{RUNS}'", **mine).splitlines()
    assert run.startswith("resnet18-residual-s42-") and "FINISHED resnet18" in run
    output(first, "python -m abn register net", **mine)
    fetch = f"python -m mlflow artifacts download -u models:/net@current -d {tmp_path / 'fetched'}"
    output(first, fetch, **mine)
    (weights,) = (tmp_path / "fetched").rglob("model.safetensors")
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == digest(first)

    wrong = mine | {"MLFLOW_TRACKING_PASSWORD": "guess"}
    (line,) = output(first, "python -m abn sync", 8, **wrong).splitlines()
    assert "401" in line and "guess" not in line


def clone(origin: Path, folder: Path) -> Path:
    """A member's project: `git clone`, in a folder of its own."""
    folder.mkdir()
    subprocess.run(["git", "clone", "-q", str(origin), str(folder / "project")], check=True)
    return folder / "project"
