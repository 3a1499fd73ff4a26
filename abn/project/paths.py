"""The files that stages hand to each other, relative to the project's root."""

import os
from pathlib import Path

PARAMS, GRAPH = Path("params.yaml"), Path("dvc.yaml")

TRAIN_DATA = Path("data/train.safetensors")
VAL_DATA = Path("data/val.safetensors")

CHECKPOINT = Path("checkpoint")
MODEL = "model.safetensors"  # in CHECKPOINT

TRAIN_METRICS = Path("metrics/train.json")
EVALUATE_METRICS = Path("metrics/evaluate.json")
EXPLAIN_METRICS = Path("metrics/explain.json")

HISTORY = Path("plots/history.csv")
CONFUSION = Path("plots/confusion.csv")
PER_CLASS = Path("plots/per_class.csv")
CALIBRATION = Path("plots/calibration.csv")
PREDICTIONS = Path("plots/predictions.csv")

OUTPUTS = Path("outputs")
SHEET = OUTPUTS / "abn_attentions.png"
GALLERY = OUTPUTS / "gallery"
REPORT = OUTPUTS / "report.html"

# Shared by all experiments, also by DVC's temporary copies of the project: never an output.
ROOT = Path(os.environ.get("DVC_ROOT", "."))
DOWNLOADS = ROOT / ".cache" / "downloads"
RESUME = ROOT / ".resume"  # a folder for each training
DONE = "done"  # in such a folder: the training has finished and its outputs are written
LOCKS = Path(".cache/locks")  # of this working tree


def explain_table(name: str) -> Path:
    """Where the explain stage's table `name` is: "maps", "curves", "images", ..."""
    return Path(f"plots/explain_{name}.csv")
