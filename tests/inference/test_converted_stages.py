"""Old weights through evaluate, explain and visualize, as `dvc repro -s` runs them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from abn.config.params import Params
from abn.inference import convert
from abn.project import paths, results
from stages import evaluate, explain, visualize
from tests import toys
from tests.inference.test_convert import TEN, official, original, trained

ROWS = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # ImageNet's numbers of the ten
WEIGHTS = "weights/model.safetensors"


class Unwatched:
    """Inputs that nothing changes while the stage runs."""

    def check(self) -> None: ...


@pytest.fixture
def tiny(params: Params, changed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A folder with data of Imagenette's ten classes, and what the last training measured."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABN_TRACKING", "off")
    monkeypatch.setenv("ABN_DEVICE", "cpu")
    for folder in ("data", "metrics", "plots"):
        Path(folder).mkdir()
    of_ten = {"labels": torch.arange(20) % 10, "classes": TEN, "masks": None}
    for path, seed in ((paths.TRAIN_DATA, 0), (paths.VAL_DATA, 1)):
        toys.pack(path, replace(toys.split(20, seed=seed), **of_ten))
    results.write_metrics(paths.TRAIN_METRICS, {"selected_on": "val", "device": "H100"})
    results.write_table(paths.HISTORY, pd.DataFrame({"epoch": [1], "train_loss": [1.0]}))
    few = {"images": 10, "steps": 2, "profile": "quick", "checkpoint": WEIGHTS}
    sections = {
        "data": changed(params.data, name="folder"),
        "evaluate": changed(params.evaluate, checkpoint=WEIGHTS, size=32, resize=32),
        "explain": changed(params.explain, **few),
        "visualize": changed(params.visualize, checkpoint=WEIGHTS, dpi=50, errors=1),
    }
    return params.model_copy(update=sections)


@pytest.mark.parametrize(
    ("classes", "relu"), [(1000, False), (10, False), (1000, True), (10, True)]
)
def test_the_stages_score_and_draw_what_the_source_computes(
    tiny: Params, tmp_path: Path, classes: int, relu: bool
) -> None:
    """Of 1000 classes the network decides among the ten of the data; its map stays the same."""
    theirs = trained("resnet18", classes, relu)
    source = original(tmp_path, theirs, "resnet18") if relu else official(tmp_path, theirs)
    names = () if classes == 1000 or relu else TEN
    convert.write(convert.convert(source, names), Path(WEIGHTS))
    rows = ROWS if classes == 1000 else list(range(10))
    for stage in (evaluate, explain, visualize):
        stage.main(tiny, Unwatched())  # type: ignore[arg-type]

    images = toys.split(20, seed=1).images.permute(0, 3, 1, 2) / 255
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    with torch.no_grad():
        decided, branch, drawn = theirs((images - mean) / std)
    found = results.table(paths.PREDICTIONS)
    for column, logits in (("", decided), ("attention_", branch)):
        confidence, place = logits[:, rows].softmax(1).max(1)
        assert found[f"{column}prediction"].tolist() == [TEN[i] for i in place]
        assert found[f"{column}confidence"].tolist() == pytest.approx(confidence.tolist(), abs=1e-4)

    scored = results.table(paths.explain_table("images"))
    assert scored["predicted"].tolist() == [found["prediction"][i] for i in scored["index"]]
    gains = [float((1 + drawn[i].max()) / (1 + drawn[i].min())) for i in scored["index"]]
    assert scored["gain_ratio"].tolist() == pytest.approx(gains, abs=1e-4)

    page = paths.REPORT.read_text(encoding="utf-8")
    assert "by another project; `abn convert` made this checkpoint" in page
    assert ("a ReLU more than the official" in page) == relu
    assert "H100" not in page and "scores are too high" not in page
    assert len(list(paths.GALLERY.glob("tench-*.png"))) >= 1 and paths.SHEET.is_file()
