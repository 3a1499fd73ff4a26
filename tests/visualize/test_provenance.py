"""Facts, checksums and parameters of a run; none of them is a time or a commit."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from abn.config.params import Params
from abn.models.checkpoint import Checkpoint
from abn.visualize.provenance import Provenance, provenance
from tests import toys

RECIPE = {
    "seed": 7,
    "train": {"epochs": 3, "batch_size": 8, "sizes": [32, 48], "lr": 0.03},
    "data": {"holdout": 0.1, "seed": 5},
}


WEIGHTS = b"weights"


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("checkpoint", "weights"):
        Path(folder).mkdir()
        Path(folder, "model.safetensors").write_bytes(WEIGHTS)
    Path("checkpoint/epoch-0002.safetensors").write_bytes(WEIGHTS)


def of(
    params: Params,
    selected_on: str = "nothing",
    recipe: Any = RECIPE,
    classes: tuple[str, ...] = toys.NAMES,
    file: str = "checkpoint/model.safetensors",
    **measured: str,
) -> Provenance:
    trained = Checkpoint(toys.network(), "resnet18", classes, recipe)
    measured["selected_on"] = selected_on
    splits = toys.split(40), toys.split(8)
    return provenance(params, trained, *splits, Path(file), measured, "CPU, AVX2")


def test_the_facts_name_network_data_and_training(params: Params) -> None:
    facts = " | ".join(f"{name}: {value}" for name, value in of(params).facts.items())
    for part in (
        "resnet18 with an attention branch",
        "weights of the last epoch",
        "40 for training, 10% of them held out; 8 for validation",
        "4 classes: red, blue, green, yellow",
        "3 epochs, 8 images per step, crops of 32 to 48 px, learning rate 0.03, seed 7",
    ):
        assert part in facts


def test_a_selection_on_the_reported_split_is_named(params: Params) -> None:
    assert "so its scores are too high" in of(params, "val").facts["Network"]
    assert "on the hold-out" in of(params, "holdout").facts["Network"]


def test_of_weights_from_elsewhere_nothing_is_said_that_the_last_training_measured(
    params: Params, changed: Any
) -> None:
    """A network of `abn convert`: no epochs, and none of these images in its training."""
    file = "weights/model.safetensors"
    recipe = {"train": {"val_size": 224, "val_resize": 256}, "data": {}}
    shown = params.model_copy(update={"visualize": changed(params.visualize, checkpoint=file)})
    found = of(shown, "val", recipe, file=file, device="H100")
    assert found.facts["Network"].endswith(" weights")
    assert found.facts["Images"] == "none for training; 8 for validation"
    assert found.facts["Training"].startswith("by another project")
    assert found.facts["Processor"] == "not recorded for the training, CPU, AVX2 for this page"
    assert f"maps are those of {file}; the training curves are those of checkpoint/." in str(
        found.warnings
    )


def test_weights_of_an_epoch_are_not_called_those_of_the_last(params: Params) -> None:
    network = of(params, file="checkpoint/epoch-0002.safetensors").facts["Network"]
    assert network.endswith(" weights")


def test_many_classes_are_counted(params: Params) -> None:
    facts = of(params, classes=tuple(map(str, range(25)))).facts
    assert facts["25 classes"].endswith("18, 19 and 5 more")


def test_checksums_are_of_content(params: Params) -> None:
    data = {"training data": "seed 0", "validation data": "seed 0"}
    assert of(params).checksums == data | {"weights": hashlib.sha256(WEIGHTS).hexdigest()}


def test_the_commits_of_a_run_are_found_by_what_dvc_records_of_its_weights(params: Params) -> None:
    md5 = hashlib.md5(WEIGHTS, usedforsecurity=False).hexdigest()
    assert of(params).search == f"git log --all --oneline -S {md5} -- dvc.lock"


def test_the_processor_is_named_for_the_training_and_for_the_page(params: Params) -> None:
    assert of(params, device="CPU, AVX2").facts["Processor"].startswith("CPU, AVX2, for the tr")
    other = of(params, device="H100").facts["Processor"]
    assert other == "H100 for the training, CPU, AVX2 for this page"
    threads = of(params, device="CPU, AVX2, 2 threads").facts["Processor"]
    assert threads == "CPU, AVX2, 2 threads, for the training; this page on the same kind"
    assert of(params).facts["Processor"].startswith("not recorded for the training")


def test_parameters_of_the_training_come_from_the_weights_file_others_from_params_yaml(
    params: Params,
) -> None:
    """params.yaml may have been edited, or name other weights than its own training's."""
    values = of(params, recipe=RECIPE | {"arch": "resnet50", "seed": 7}).params
    assert (values["arch"], values["seed"], values["train.epochs"]) == ("resnet50", "7", "3")
    assert (values["data.holdout"], values["data.seed"]) == ("0.1", "5")
    assert values["evaluate.size"] == "64" and values["data.url"] == ""
    assert values["data.shapes.diameter"] == "[0.48, 0.56]"


def test_scores_of_other_weights_come_with_a_warning(params: Params, changed: Any) -> None:
    file = "checkpoint/epoch-0002.safetensors"
    assert of(params).warnings == []
    other = params.model_copy(update={"evaluate": changed(params.evaluate, checkpoint=file)})
    assert of(other).warnings == [
        f"Accuracy is that of {file}, all else that of checkpoint/model.safetensors."
    ]
    other = params.model_copy(update={"visualize": changed(params.visualize, checkpoint=file)})
    assert any("training curves" in warning for warning in of(other).warnings)
