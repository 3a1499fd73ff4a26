"""Facts, checksums and parameters of a run; none of them is a time or a commit."""

from typing import Any

from abn.config.params import Params
from abn.models.checkpoint import Checkpoint
from abn.visualize.provenance import Provenance, provenance
from tests import toys

RECIPE = {
    "train": {"epochs": 3, "batch_size": 8, "sizes": [32, 48]},
    "data": {"holdout": 0.1, "seed": 5},
}


def of(params: Params, selected_on: str = "nothing", recipe: Any = RECIPE) -> Provenance:
    trained = Checkpoint(toys.network(), "resnet18", toys.NAMES, recipe)
    return provenance(params, trained, toys.split(40), toys.split(8), "f" * 64, selected_on)


def test_the_facts_name_network_data_and_training(params: Params) -> None:
    facts = " | ".join(f"{name}: {value}" for name, value in of(params).facts.items())
    for part in (
        "resnet18 with an attention branch",
        "weights of the last epoch",
        "40 for training, 10% of them held out; 8 for validation",
        "4 classes: red, blue, green, yellow",
        "3 epochs, 8 images per step, crops of 32 to 48 px",
    ):
        assert part in facts


def test_a_selection_on_the_reported_split_is_named(params: Params) -> None:
    assert "so its scores are too high" in of(params, "val").facts["Network"]
    assert "on the hold-out" in of(params, "holdout").facts["Network"]


def test_many_classes_are_counted(params: Params) -> None:
    trained = Checkpoint(toys.network(), "resnet18", tuple(map(str, range(25))), RECIPE)
    facts = provenance(params, trained, toys.split(4), toys.split(4), "f" * 64, "nothing").facts
    assert facts["25 classes"].endswith("18, 19 and 5 more")


def test_checksums_are_of_content(params: Params) -> None:
    data = {"training data": "seed 0", "validation data": "seed 0"}
    assert of(params).checksums == data | {"weights": "f" * 64}


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
