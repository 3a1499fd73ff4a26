"""MLflow's registry: a network as a model that `mlflow models serve` answers with.

The model is code and safetensors, no pickle: `mlflow_model.py`, a copy of this package, and the
checkpoint. It hangs on the run that has these very weights.
"""

import io
import os
import re
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import abn
from abn.data import packed
from abn.models import checkpoint
from abn.project import paths
from abn.runtime.errors import ParamsError, TrackingError
from abn.tracking import address, client, mirror

HOUSE, SERVED = Path(abn.__file__).parent, Path(__file__).with_name("mlflow_model.py")
CORE = "numpy", "opencv-python-headless", "pillow", "pydantic", "safetensors", "torch"
PATIENCE = "120"  # seconds, MLflow's own: a server answers once it has stored all the weights
NAME = re.compile(r"[^/:]{1,256}")
ALIAS = re.compile(r"(?!(latest|v\d+)$)[\w-]{1,255}", re.IGNORECASE)
ARTIFACT = "weights"  # the checkpoint among the model's files


def register(source: Path, name: str, alias: str) -> str:
    """Register the checkpoint `source` as the next version of `name`, with `alias`; its address.

    Runs in the project's root. ParamsError where MLflow takes no such name or alias. DataError
    where `source` is no checkpoint, or there are no validation images for the example.
    TrackingError where no run has these weights.
    """
    require_names(name, alias)
    checkpoint.load(source, torch.device("cpu"))
    picture = example(paths.VAL_DATA)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", PATIENCE)
    store = client.Store()
    for _ in store.update(mirror.records(Path.cwd())):  # as `abn sync`: the run may be missing
        pass
    sha256 = checkpoint.sha256(source)
    if (run := store.run_with({"weights.sha256": sha256})) is None:
        remedy = "register the weights of the project's last training"
        raise TrackingError("no run in MLflow has these weights", source, remedy)
    return _log(source, run, name, alias, picture)


def require_names(name: str, alias: str) -> None:
    """ParamsError for what MLflow refuses: of an alias only after the version is there."""
    if not NAME.fullmatch(name) or name.strip(". ") == "":
        raise ParamsError("not a name for a model", f"NAME {name!r}", "use letters without / and :")
    if not ALIAS.fullmatch(alias):
        remedy = "use letters, digits, - and _, but not latest or v1"
        raise ParamsError("not an alias", f"--alias {alias!r}", remedy)


def example(data: Path) -> bytes:
    """A validation image as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(packed.read(data).images[0].numpy()).save(file, "PNG")
    return file.getvalue()


def _log(source: Path, run: str, name: str, alias: str, picture: bytes) -> str:
    import mlflow
    import pandas as pd
    from mlflow.models import Model

    mlflow.set_tracking_uri(address.address())
    with warnings.catch_warnings(record=True):  # MLflow's advice; it sets filters of its own
        logged = Model.log(
            None,
            flavor=mlflow.pyfunc,
            name="network",
            run_id=run,
            registered_model_name=name,
            python_model=str(SERVED),
            artifacts={ARTIFACT: str(source)},
            code_paths=[str(HOUSE)],
            signature=signature(),
            input_example=pd.DataFrame({"image": [picture]}),
            pip_requirements=[f"{package}=={version(package)}" for package in ("mlflow", *CORE)],
        )
    number = str(logged.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(name, alias, number)
    return f"models:/{name}/{number}"


def signature() -> Any:
    """Image files in, base64 in JSON; for each what `mlflow_model.Network` answers."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType, Map, Schema

    number = DataType.double
    columns = {"class": DataType.string, "confidence": number, "classes": Map(number)}
    columns |= {"attention_classes": Map(number), "map": Array(Array(number))}
    outputs = [ColSpec(kind, column) for column, kind in columns.items()]
    outputs += [ColSpec(DataType.boolean, "unlike", required=False)]
    return ModelSignature(Schema([ColSpec(DataType.binary, "image")]), Schema(outputs))
