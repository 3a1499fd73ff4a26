"""The wheel: what is in it, and that it predicts with the core packages alone."""

import csv
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import resources
from pathlib import Path

import pytest
from PIL import Image

import abn
from abn.models import checkpoint

ROOT = Path(__file__).parent.parent
IMPORTED_AS = {"pyyaml": "yaml", "scikit-learn": "sklearn", "nvidia-ml-py": "pynvml"}
PHOTOS = {"china.jpg", "flower.jpg"}  # of scikit-learn
OF_TORCH = {"filelock", "jinja2"}  # which torch itself requires

PREDICT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
sys.path.insert(0, {installed!r})
import abn
assert abn.__file__.startswith({installed!r}), abn.__file__
print(abn.load("model.safetensors", device="cpu").predict("photos/china.jpg"))
from abn.cli.main import main
sys.exit(main(["predict", "photos", "--checkpoint", "model.safetensors", "--to", "out"]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The project's wheel, built without network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def extras() -> set[str]:
    """The packages of all extras, as they are imported."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [line for each in project["optional-dependencies"].values() for line in each]
    names = {line.partition(">")[0] for line in lines}
    return {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}


def test_the_wheel_holds_the_package_its_templates_and_types_and_nothing_else(
    wheel: zipfile.ZipFile,
) -> None:
    names = set(wheel.namelist())
    info = f"attention_branch_network-{abn.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"abn", info}
    assert {"abn/py.typed", "abn/__init__.pyi", f"{info}/licenses/LICENSE"} <= names
    files = {str(p.relative_to(ROOT)) for p in (ROOT / "abn").rglob("*") if p.is_file()}
    assert {name for name in files if "__pycache__" not in name} == {
        name for name in names if name.startswith("abn/")
    }
    assert b"abn = abn.cli.main:main" in wheel.read(f"{info}/entry_points.txt")


def test_the_wheel_predicts_in_another_folder_with_the_core_packages_alone(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    network = abn.AttentionBranchNetwork("resnet18", 2)
    train = {"epochs": 1, "batch_size": 2, "sizes": [32], "val_size": 32, "val_resize": 32}
    how = {"arch": "resnet18", "attention": "residual", "seed": 0}
    params = how | {"data": {"holdout": 0.0}, "train": train}
    here, installed = tmp_path / "elsewhere", str(tmp_path / "installed")
    weights = {"model": checkpoint.weights(network)}
    checkpoint.save_all(here, weights, ("cat", "dog"), params)
    (here / "photos").mkdir()
    for name in PHOTOS:
        with resources.as_file(resources.files("sklearn.datasets.images") / name) as photo:
            shutil.copy(photo, here / "photos")
    Image.new("L", (40, 32), "white").save(here / "photos/grey.png")
    wheel.extractall(installed)
    code = PREDICT.format(blocked=extras() - OF_TORCH, installed=installed)
    run = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True)
    assert run.returncode == 0 and "error" not in run.stderr
    assert run.stdout.startswith("Prediction(")
    with (here / "out/predictions.csv").open(encoding="utf-8", newline="") as table:
        rows = {Path(row["file"]).name: row["prediction"] for row in csv.DictReader(table)}
    assert rows.keys() == PHOTOS | {"grey.png"} and set(rows.values()) <= {"cat", "dog"}
    sizes = {}
    for path in here.glob("out/overlays/*"):
        with Image.open(path) as overlay:
            sizes[path.name.partition(".")[0]] = overlay.size
    assert sizes == {"china": (640, 427), "flower": (640, 427), "grey": (40, 32)}
