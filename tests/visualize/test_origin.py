"""What was trained on what: facts, checksums and parameters, none of them a time or a commit."""

import re
from typing import Any

import pytest

from abn.config.params import Params
from abn.models.checkpoint import Checkpoint
from abn.visualize.origin import Origin, trace
from tests import toys

RECIPE = {
    "train": {"epochs": 3, "batch_size": 8, "sizes": [32, 48]},
    "data": {"holdout": 0.1, "seed": 5},
}


def origin(params: Params, selected_on: str = "nothing", recipe: Any = RECIPE) -> Origin:
    trained = Checkpoint(toys.network(), "resnet18", toys.NAMES, recipe)
    return trace(params, trained, toys.split(40), toys.split(8), "f" * 64, selected_on)


def test_the_facts_say_what_was_trained_on_what(params: Params) -> None:
    facts = " | ".join(f"{name}: {value}" for name, value in origin(params).facts.items())
    for part in (
        "resnet18 with an attention branch",
        "weights of the last epoch",
        "40 to train, 10% of them held out; 8 to validate",
        "4 classes: red, blue, green, yellow",
        "3 epochs, 8 images a step, crops of 32 to 48 px",
    ):
        assert part in facts


def test_selecting_on_what_is_reported_is_told(params: Params) -> None:
    assert "so its numbers flatter" in origin(params, "val").facts["Network"]
    assert "on the hold-out" in origin(params, "holdout").facts["Network"]


def test_many_classes_are_counted(params: Params) -> None:
    trained = Checkpoint(toys.network(), "resnet18", tuple(map(str, range(25))), RECIPE)
    found = trace(params, trained, toys.split(4), toys.split(4), "f" * 64, "nothing")
    assert found.facts["25 classes"].endswith("18, 19 and 5 more")


def test_lineage_is_content(params: Params) -> None:
    found = origin(params).checksums
    assert found["weights"] == "f" * 64 and found["training data"] == "seed 0"
    assert re.fullmatch("[0-9a-f]{64}", found["abn/models/abn.py"])
    assert "abn/models/resnet.py" in found


def test_a_trainings_parameters_are_those_that_its_weights_tell(params: Params) -> None:
    """params.yaml may have been edited, or name other weights than its own training's."""
    told = origin(params, recipe=RECIPE | {"arch": "resnet50", "seed": 7}).params
    assert (told["arch"], told["seed"], told["train.epochs"]) == ("resnet50", "7", "3")
    assert (told["data.holdout"], told["data.seed"]) == ("0.1", "5")


def test_all_others_are_those_of_params_yaml_by_their_dotted_names(params: Params) -> None:
    told = origin(params).params
    assert told["evaluate.size"] == "64" and told["data.url"] == ""
    assert told["data.shapes.diameter"] == "[0.48, 0.56]"


@pytest.mark.parametrize("file", ["checkpoint/epoch-0002.safetensors"])
def test_numbers_of_other_weights_are_warned_of(params: Params, changed: Any, file: str) -> None:
    assert origin(params).warnings == []
    other = params.model_copy(update={"evaluate": changed(params.evaluate, checkpoint=file)})
    assert origin(other).warnings == [
        f"Accuracy is that of {file}, all else that of checkpoint/model.safetensors."
    ]
    other = params.model_copy(update={"visualize": changed(params.visualize, checkpoint=file)})
    assert any("training curves" in warning for warning in origin(other).warnings)
